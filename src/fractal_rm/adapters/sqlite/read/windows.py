"""Walks through the numbers of a journal in windows, and reads or counts what matches in each."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import TypeVar

from fractal_rm.adapters.sqlite.errors import is_locked
from fractal_rm.adapters.sqlite.read.question import JournalQuestion, Match
from fractal_rm.adapters.sqlite.read.ranges import Range

Answer = TypeVar("Answer")
WINDOW_RUNS = 4_096
FIRST_INDEX_WINDOW, MAX_INDEX_WINDOW = 4 * WINDOW_RUNS, 1 << 40
FAST_S, SLOW_S = 0.005, 0.02  # an index window that is read faster grows, a slower one shrinks


class Windows:
    """The numbers from ``low`` to ``high``, the newest (or the oldest) first.

    ``next_no`` is the number that is searched next. ``ended``: nothing remains.
    """

    def __init__(
        self,
        question: JournalQuestion,
        low: int,
        high: int,
        *,
        oldest_first: bool,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._question = question
        self._low, self._high = low, high
        self._oldest_first = oldest_first
        self._monotonic_s = monotonic_s
        self._index_width = FIRST_INDEX_WINDOW
        self._range: Range | None = None
        self._ranges: Iterator[Range] | None = None
        self.next_no = low if oldest_first else high
        self.ended = low > high

    def read(self, limit: int) -> list[Match]:
        """Read about ``limit`` matches of the next window. Raises sqlite3.Error."""
        window = self._next_window()
        if window is None:
            return []
        began_s, was_damaged = self._monotonic_s(), self._question.is_damaged
        found, reached = self._question.read(*window, limit, oldest_first=self._oldest_first)
        if self._question.is_damaged and not was_damaged:
            self._range = self._ranges = None  # go on with all numbers, around the damage
        self._go_beyond(reached, self._monotonic_s() - began_s)
        return found

    def ask(self, answer: Callable[[int, int], Answer | None], nothing: Answer) -> Answer | None:
        """Return the answer of a function for the next window; ``nothing`` if it has no runs.

        None: the function has no answer, and the window must be read. Raises sqlite3.Error.
        """
        window = self._next_window()
        if window is None:
            return nothing
        began_s, (first, last) = self._monotonic_s(), window
        try:
            found = answer(first, last)
        except sqlite3.DatabaseError as error:
            if is_locked(error):
                raise
            return None
        if found is not None:
            reached = last if self._oldest_first else first
            self._go_beyond(reached, self._monotonic_s() - began_s)
        return found

    def _next_window(self) -> Range | None:
        """Return the next window; None: a part without matches was skipped, or nothing remains."""
        if self._range is None:
            self._range = self._next_range()
        if self._range is None:
            self.ended = True
            return None
        first, last = self._range
        if first > last:  # nothing in this part
            self.next_no, self._range = (first if self._oldest_first else last), None
            return None
        width = self._index_width if self._question.by_index else WINDOW_RUNS
        return (first, min(last, first + width - 1)) if self._oldest_first else (
            max(first, last - width + 1), last
        )  # fmt: skip

    def _next_range(self) -> Range | None:
        try:
            if self._ranges is None:
                self._ranges = self._rest()
            return next(self._ranges, None)
        except (sqlite3.DatabaseError, OverflowError) as error:
            if self._question.is_damaged or (isinstance(error, sqlite3.Error) and is_locked(error)):
                raise
            self._question.is_damaged = True
            self._ranges = self._rest()
            return next(self._ranges, None)

    def _rest(self) -> Iterator[Range]:
        low, high = (self.next_no, self._high) if self._oldest_first else (self._low, self.next_no)
        return self._question.ranges(low, high, oldest_first=self._oldest_first)

    def _go_beyond(self, reached: int, took_s: float) -> None:
        self.next_no = reached + 1 if self._oldest_first else reached - 1
        if took_s < FAST_S:
            self._index_width = min(self._index_width * 2, MAX_INDEX_WINDOW)
        elif took_s > SLOW_S:
            self._index_width = max(self._index_width // 2, WINDOW_RUNS)
        if self._range is not None:
            first, last = self._range
            if self._oldest_first:
                self._range = (reached + 1, last) if reached < last else None
            else:
                self._range = (first, reached - 1) if reached > first else None
        self.ended = not self._low <= self.next_no <= self._high
