"""The search for runs in several journals at the same time, for a limited time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from fractal_rm.adapters.sqlite.read.cursor import Place
from fractal_rm.adapters.sqlite.read.journal_search import JournalSearch
from fractal_rm.adapters.sqlite.read.question import JournalQuestion
from fractal_rm.engine.ports import RunSummary

_LAST = 1 << 62


class Deadline:
    """Ends a search. ``monotonic_s`` is the clock."""

    def __init__(self, within_s: float, monotonic_s: Callable[[], float]) -> None:
        self.monotonic_s = monotonic_s
        self._end_s = monotonic_s() + within_s

    def at_most(self, within_s: float) -> Deadline:
        """A deadline that ends with this one, and at most ``within_s`` from now."""
        remaining_s = self._end_s - self.monotonic_s()
        return Deadline(min(remaining_s, within_s), self.monotonic_s)

    @property
    def passed(self) -> bool:
        """Whether the time has ended."""
        return self.monotonic_s() >= self._end_s


class Page(msgspec.Struct):
    """What a search has found. ``places``: where it goes on in each journal; empty: nowhere.

    ``searched_to_ms`` is set if the time ended before the page was full.
    """

    runs: list[RunSummary]
    places: dict[str, Place]
    searched_to_ms: int | None = None


def find_page(
    questions: Sequence[JournalQuestion],
    places: Mapping[str, Place] | None,
    limit: int,
    *,
    oldest_first: bool,
    deadline: Deadline,
) -> Page:
    """Find at most ``limit`` runs. At least one window is searched, so each page goes on.

    ``places`` is None for the first page. Journals that are not in it have been searched to their
    end. Raises sqlite3.Error.
    """
    searches = begin_searches(questions, places, oldest_first=oldest_first, deadline=deadline)
    merge = Merge(list(searches.values()), oldest_first=oldest_first)
    found: dict[str, RunSummary] = {}  # a run that is being moved may be in two journals
    timed_out = False
    while len(found) < limit:
        search = merge.first(ignore_waiting=timed_out)
        if search is None:
            waiting = None if timed_out else merge.waiting()
            if waiting is None:
                break
            waiting.advance(limit - len(found) + 1)
            timed_out = deadline.passed
            continue
        run = search.take().run
        found.setdefault(run.id, run)
    runs = sorted(found.values(), key=lambda run: run.id, reverse=not oldest_first)
    after = {name: search.place() for name, search in searches.items()}
    page = Page(runs, {name: place for name, place in after.items() if place is not None})
    if timed_out and len(found) < limit:
        page.searched_to_ms = merge.searched_to_ms()
    return page


def begin_searches(
    questions: Sequence[JournalQuestion],
    places: Mapping[str, Place] | None,
    *,
    oldest_first: bool,
    deadline: Deadline,
) -> dict[str, JournalSearch]:
    """Begin a search in each journal, at its place. Returns the searches by name of the journal."""
    return {
        question.connection.path.stem: JournalSearch(
            question,
            None if places is None else places[question.connection.path.stem],
            oldest_first=oldest_first,
            monotonic_s=deadline.monotonic_s,
        )
        for question in questions
        if places is None or question.connection.path.stem in places
    }


class Merge:
    """Chooses the journal that is searched next, and the one that has the next run."""

    def __init__(self, searches: list[JournalSearch], *, oldest_first: bool) -> None:
        self._searches = searches
        self._oldest_first = oldest_first

    def waiting(self) -> JournalSearch | None:
        """The search that is the least far, of those that have found nothing yet."""
        waiting = [each for each in self._searches if not each.found and not each.ended]
        if len(waiting) < 2:
            return waiting[0] if waiting else None
        return min(waiting, key=self._frontier)

    def first(self, *, ignore_waiting: bool) -> JournalSearch | None:
        """The search whose first run is the next; None: it is not known yet.

        ``ignore_waiting``: other searches will not find more.
        """
        having = [each for each in self._searches if each.found]
        if not having:
            return None
        first = min(having, key=self._time_of_first)
        waiting = None if ignore_waiting else self.waiting()
        if waiting is None or self._time_of_first(first) <= self._frontier(waiting):
            return first
        return None

    def searched_to_ms(self) -> int | None:
        """The time up to which all journals were searched; None: nothing is known."""
        remaining = [each for each in self._searches if not each.ended]
        times = [each.searched_to_ms() for each in remaining]
        known = [at_ms for at_ms in times if at_ms is not None]
        return min(known, key=self._order, default=None)

    def _frontier(self, search: JournalSearch) -> int:
        at_ms = search.searched_to_ms()
        return _LAST if at_ms is None else self._order(at_ms)

    def _time_of_first(self, search: JournalSearch) -> int:
        return self._order(search.found[0].run.accepted_ms)

    def _order(self, at_ms: int) -> int:
        return at_ms if self._oldest_first else -at_ms
