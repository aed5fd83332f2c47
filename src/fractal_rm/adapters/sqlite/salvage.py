"""Read runs around what cannot be read: by their numbers, in halves where a stretch fails.

A page of the file that is damaged takes its rows with it, and no others.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

from fractal_rm.adapters.sqlite import statements
from fractal_rm.adapters.sqlite.causes import is_held

WINDOW = 4_096
Row = tuple[Any, ...]


class Salvage:
    """``unreadable`` says what could not be read, stretch by stretch."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._lost: list[tuple[int, int]] = []
        self._why = ""

    @property
    def unreadable(self) -> list[str]:
        """What could not be read so far."""
        said = [f"runs no. {first} to {last} cannot be read ({self._why})"
                for first, last in self._lost]  # fmt: skip
        return said or ["an index cannot be read: `fractal-rm journal repair` makes it again"]

    @property
    def lost(self) -> list[tuple[int, int]]:
        """The numbers of runs whose rows cannot be read, from first to last."""
        return self._lost

    def rows_newest_first(self, enough: Callable[[], bool] = lambda: False) -> Iterator[Row]:
        """Whole rows of runs, window after window, until there are enough."""
        last = self.last_no()
        while last > 0 and not enough():
            first = max(1, last - WINDOW + 1)
            yield from self.stretch(first, last)
            last = first - 1

    def rows_oldest_first(self) -> Iterator[Row]:
        """Whole rows of runs."""
        last = self.last_no()
        for first in range(1, last + 1, WINDOW):
            rows = list(self.stretch(first, min(first + WINDOW - 1, last)))
            yield from reversed(rows)

    def last_no(self) -> int:
        """No run has a higher number, as far as can be read. Raises sqlite3.Error."""
        highest, failed = 0, None
        for statement in statements.LAST_NO:
            try:
                highest = max(highest, self._db.execute(statement).fetchone()[0] or 0)
            except (sqlite3.DatabaseError, TypeError) as error:  # noqa: PERF203 - the others tell
                failed = error
        if not highest and failed is not None:
            raise sqlite3.DatabaseError(str(failed))
        return highest

    def pages_of(self, no: int) -> list[Row]:
        """The pages of a run that can be read: number, place in it, body, checksum."""
        found: list[Row] = []
        try:
            found.extend(self._db.execute(statements.PAGES_BETWEEN, (no, no)))
        except sqlite3.DatabaseError as error:
            if is_held(error):
                raise
        return found

    def stretch(self, first: int, last: int) -> Iterator[Row]:
        """Whole rows from one number to another, the newest first; in halves where that fails."""
        try:
            rows = self._db.execute(statements.RUNS_BETWEEN, (first, last)).fetchall()
        except sqlite3.DatabaseError as error:
            if is_held(error):
                raise
            if first == last:
                self._lose(first, str(error))
                return
            middle = (first + last) // 2
            yield from self.stretch(middle + 1, last)
            yield from self.stretch(first, middle)
        else:
            yield from rows

    def _lose(self, no: int, why: str) -> None:
        self._why = why
        for at, (first, last) in enumerate(self._lost):
            if no in (first - 1, last + 1):
                self._lost[at] = min(first, no), max(last, no)
                return
        self._lost.append((no, no))
