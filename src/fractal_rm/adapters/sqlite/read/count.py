"""Count runs, and group failures, in several journals, for a limited time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fractal_rm.adapters.sqlite.read.failures import Groups
from fractal_rm.adapters.sqlite.read.find import Deadline, Merge
from fractal_rm.adapters.sqlite.read.journal_search import JournalSearch
from fractal_rm.adapters.sqlite.read.question import JournalQuestion
from fractal_rm.engine.ports import Count, Failures

_NO_LIMIT = 1 << 60


def count_matches(questions: Sequence[JournalQuestion], most: int, deadline: Deadline) -> Count:
    """Count the matching runs, up to ``most``. Raises sqlite3.Error."""
    number = 0

    def add(search: JournalSearch) -> bool:
        nonlocal number
        windows = search.windows
        count = None if windows is None else windows.ask(search.question.count, 0)
        number += _read(search) if count is None else count
        return number > most

    searched_to_ms, completed = _search(questions, deadline, add)
    return Count(min(number, most), completed and number <= most, searched_to_ms)


def group_failures(questions: Sequence[JournalQuestion], deadline: Deadline) -> Failures:
    """Group the matching runs, which are in trouble. Raises sqlite3.Error."""
    groups = Groups()
    kinds: dict[tuple[int, int], list[int]] = {}  # (question, kind): count, lowest, highest number

    def add(search: JournalSearch) -> bool:
        windows, question = search.windows, search.question
        counts = None
        before = 0 if windows is None else windows.next_no
        if windows is not None:
            counts = windows.ask(question.failures, [])
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

    searched_to_ms, _ = _search(questions, deadline, add)
    for (at, kind), (count, lowest, highest) in kinds.items():
        question = questions[at]
        newest, first_ms = question.run_at(highest), question.time_at(lowest, oldest_first=True)
        fault = question.connection.faults.get(kind)
        if newest is not None and fault is not None:
            groups.add(newest, count, first_ms, fault.shape)
    return Failures(groups.groups(), searched_to_ms)


def _search(
    questions: Sequence[JournalQuestion],
    deadline: Deadline,
    add: Callable[[JournalSearch], bool],
) -> tuple[int | None, bool]:
    """Search all journals, the newest runs first, until the deadline or until ``add`` returns true.

    Returns the time up to which they were searched if the time has ended, and whether everything
    was searched.
    """
    searches = [
        JournalSearch(question, None, oldest_first=False, monotonic_s=deadline.monotonic_s)
        for question in questions
    ]
    merge = Merge(searches, oldest_first=False)
    while (search := merge.waiting()) is not None:
        if add(search):
            return None, merge.waiting() is None
        if deadline.passed and merge.waiting() is not None:
            return merge.searched_to_ms(), False
    return None, True


def _read(search: JournalSearch) -> int:
    search.advance(_NO_LIMIT)
    count = len(search.found)
    search.found.clear()
    return count
