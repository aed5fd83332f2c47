"""Count runs, and group failures, in several journals, for a limited time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from fractal_rm.adapters.sqlite.read.cursor import Place
from fractal_rm.adapters.sqlite.read.failures import Groups
from fractal_rm.adapters.sqlite.read.find import Deadline, Merge, begin_searches
from fractal_rm.adapters.sqlite.read.journal_search import JournalSearch
from fractal_rm.adapters.sqlite.read.question import JournalQuestion

_NO_LIMIT = 1 << 60


class Progress(msgspec.Struct):
    """How far a search is: where it goes on in each journal (empty: nowhere), and the time."""

    places: dict[str, Place]
    searched_to_ms: int | None


def count_matches(
    questions: Sequence[JournalQuestion],
    places: Mapping[str, Place] | None,
    most: int,
    deadline: Deadline,
) -> tuple[int, Progress]:
    """Count matching runs until there are more than ``most``. Raises sqlite3.Error."""
    number = 0

    def add(search: JournalSearch) -> bool:
        nonlocal number
        windows = search.windows
        ask = search.question.count
        count = search.count_new() if windows is None else windows.ask(ask, 0)
        number += _read(search) if count is None else count
        return number > most

    progress = _search(questions, places, deadline, add)
    return number, progress


def group_failures(
    questions: Sequence[JournalQuestion],
    places: Mapping[str, Place] | None,
    groups: Groups,
    deadline: Deadline,
) -> Progress:
    """Add the matching runs, which are in trouble, to groups. Raises sqlite3.Error."""
    kinds: dict[tuple[int, int], list[int]] = {}  # (question, kind): count, lowest, highest number

    def add(search: JournalSearch) -> bool:
        windows, question = search.windows, search.question
        before = 0 if windows is None else windows.next_no
        counts = None if windows is None else windows.ask(question.failures, [])
        if windows is None or counts is None:
            search.advance(_NO_LIMIT)
            while search.found:
                groups.add(search.take().run)
            return False
        for run in question.changed_in(windows.next_no + 1, before):
            groups.add(run)
        for kind, count, lowest, highest in counts:
            total = kinds.setdefault((questions.index(question), kind), [0, lowest, highest])
            total[0] += count
            total[1], total[2] = min(total[1], lowest), max(total[2], highest)
        return False

    progress = _search(questions, places, deadline, add)
    for (at, kind), (count, lowest, highest) in kinds.items():
        question = questions[at]
        newest, first_ms = question.run_at(highest), question.time_at(lowest, oldest_first=True)
        fault = question.connection.faults.get(kind)
        if newest is not None and fault is not None:
            groups.add(newest, count, first_ms, fault.shape)
    return progress


def _search(
    questions: Sequence[JournalQuestion],
    places: Mapping[str, Place] | None,
    deadline: Deadline,
    add: Callable[[JournalSearch], bool],
) -> Progress:
    """Search all journals, the newest runs first, until the deadline or until ``add`` returns true.

    One window is always searched.
    """
    searches = begin_searches(questions, places, oldest_first=False, deadline=deadline)
    merge = Merge(list(searches.values()), oldest_first=False)
    while (search := merge.waiting()) is not None:
        if add(search) or deadline.passed:
            break
    after = {name: search.place() for name, search in searches.items()}
    remaining = {name: place for name, place in after.items() if place is not None}
    return Progress(remaining, merge.searched_to_ms() if remaining else None)


def _read(search: JournalSearch) -> int:
    search.advance(_NO_LIMIT)
    count = len(search.found)
    search.found.clear()
    return count
