"""The search for runs in one journal: in its log, and in windows of its history."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from fractal_rm.adapters.sqlite.read.cursor import Place
from fractal_rm.adapters.sqlite.read.question import JournalQuestion, Match
from fractal_rm.adapters.sqlite.read.windows import Windows

NEW_AT_ONCE = 500


class JournalSearch:
    """Call `advance` until ``found`` has enough runs, or ``ended`` is true; then `take` them."""

    def __init__(
        self,
        question: JournalQuestion,
        place: Place | None,
        *,
        oldest_first: bool,
        monotonic_s: Callable[[], float],
    ) -> None:
        """Begin at a place; None: at the beginning."""
        self.question = question
        self.found: deque[Match] = deque()
        self._oldest_first = oldest_first
        if place is None:
            place = Place(0, (1 << 62)) if oldest_first else Place(None, question.last_no)
        self._begun = place
        self._taken_id = place.run_id  # the last run that was only in the log, and was returned
        self._new_ids = deque[str]()  # of runs that are only in the log, and not searched yet
        if oldest_first or place.number is None:
            ids = question.new_ids
            if place.run_id is not None:
                ids = list(filter(self._remains, ids))
            self._new_ids.extend(ids if oldest_first else reversed(ids))
        last_no, number = question.last_no, place.number
        if oldest_first:
            low, high = (number or 0) + 1, last_no
        else:
            low, high = 1, last_no if number is None else min(last_no, number - 1)
        self._windows = Windows(
            question, low, high, oldest_first=oldest_first, monotonic_s=monotonic_s
        )

    @property
    def ended(self) -> bool:
        """Whether everything was searched."""
        return not self._new_ids and self._windows.ended

    def advance(self, limit: int) -> None:
        """Search the log, or one window. Adds about ``limit`` runs. Raises sqlite3.Error."""
        if self._new_ids and (self._windows.ended or not self._oldest_first):
            self._search_new(limit)
            return
        floor = self._begun.floor
        for match in self._windows.read(limit):
            if (match.no or 0) <= floor or self._remains(match.run.id):
                self.found.append(match)

    @property
    def windows(self) -> Windows | None:
        """The windows of the history; None: the log is searched first."""
        return None if self._new_ids else self._windows

    def take(self) -> Match:
        """Remove the first run that was found, and return it."""
        match = self.found.popleft()
        if match.no is None:
            self._taken_id = match.run.id
        return match

    def place(self) -> Place | None:
        """Where the search goes on; None: everything was returned."""
        begun, next_no = self._begun, self._windows.next_no
        if not self.found and self.ended:
            return None
        next_found = self.found[0].no if self.found else None
        if next_found is not None:
            next_no = next_found
        if self._oldest_first:
            if next_found is None and self._windows.ended:  # the log remains, or a part of it
                last_no = self.question.last_no
                return Place(max(last_no, begun.number or 0), last_no, self._taken_id)
            return Place(next_no - 1, begun.floor, begun.run_id)
        if self._new_ids or (self.found and next_found is None):
            return Place(None, begun.floor, self._taken_id)
        return Place(next_no + 1, begun.floor, begun.run_id)

    def searched_to_ms(self) -> int | None:
        """The time of acceptance up to which its history was searched; None: to the end."""
        return self.question.time_at(self._windows.next_no, oldest_first=self._oldest_first)

    def count_new(self) -> int | None:
        """Count the runs that the history does not have; None: they must be searched."""
        if not self.question.can_count_new():
            return None
        count = len(self._new_ids)
        self._new_ids.clear()
        return count

    def _search_new(self, limit: int) -> None:
        ids = self._new_ids
        while ids and limit > 0:
            some = [ids.popleft() for _ in range(min(len(ids), max(limit, NEW_AT_ONCE)))]
            runs = self.question.new(some)
            self.found.extend(Match(None, run) for run in runs)
            limit -= len(runs)

    def _remains(self, run_id: str) -> bool:
        """Whether a run that had no number when the search began was not returned yet."""
        returned = self._begun.run_id
        if returned is None:
            return True
        return run_id > returned if self._oldest_first else run_id < returned
