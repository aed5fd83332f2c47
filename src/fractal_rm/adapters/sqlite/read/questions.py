"""Answers questions about many runs: the part of the port `History` for lists and counts."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from fractal_rm.adapters.clock import NodeClock
from fractal_rm.adapters.sqlite.read.connection import Updates
from fractal_rm.adapters.sqlite.read.connections import Connections
from fractal_rm.adapters.sqlite.read.count import count_matches, group_failures
from fractal_rm.adapters.sqlite.read.cursor import Place, decode_cursor, encode_cursor
from fractal_rm.adapters.sqlite.read.failures import Groups
from fractal_rm.adapters.sqlite.read.find import Deadline, find_page
from fractal_rm.adapters.sqlite.read.handled_runs import HandledRuns
from fractal_rm.adapters.sqlite.read.minute_counts import read_minutes
from fractal_rm.adapters.sqlite.read.question import JournalQuestion
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import TROUBLE_STATES
from fractal_rm.engine.ports import (
    EVERY_RUN,
    Count,
    Failures,
    Found,
    Handled,
    Minute,
    RunSummary,
)

WITHIN_S = 0.1  # the time for one question, and for each slice of a longer one
MAX_REPLAYS = 100  # of one run


class Questions:
    """Answers questions. One question is answered at a time; other threads wait meanwhile.

    Methods raise JournalError if a journal or the folder cannot be read.
    """

    def __init__(
        self, folder: Path, monotonic_s: Callable[[], float] = NodeClock.monotonic_s
    ) -> None:
        self._connections = Connections(folder)
        self._monotonic_s = monotonic_s

    def read_memory_of(self, journal: Path, updates: Updates) -> None:
        """Ask ``updates`` what a history lacks, instead of reading the log again.

        It is for the journal that this process writes. Any thread calls ``updates``; it returns
        None while the journal is not open.
        """
        self._connections.updates[journal] = updates

    def close(self) -> None:
        """Close the files. The next question opens them again."""
        self._connections.close()

    def find(
        self,
        run_filter: RunFilter = EVERY_RUN,
        *,
        cursor: str | None = None,
        limit: int = 50,
        oldest_first: bool = False,
        within_s: float = WITHIN_S,
    ) -> Found:
        """Find runs; see the port."""
        if not _is_unicode(run_filter):
            return Found([])
        places: dict[str, Place] | None = None
        if cursor is not None:
            places = decode_cursor(cursor, run_filter, oldest_first=oldest_first)
        deadline, damage = Deadline(within_s, self._monotonic_s), dict[str, None]()
        runs: dict[str, RunSummary] = {}
        searched_to_ms: int | None = None
        for slice_deadline in self._slices(deadline):
            with self._question(run_filter) as (questions, handled, found_damage):
                page = find_page(
                    questions, places, limit - len(runs), oldest_first=oldest_first,
                    deadline=slice_deadline,
                )  # fmt: skip
                for run in _with_handled(page.runs, handled):
                    runs.setdefault(run.id, run)
            damage.update(dict.fromkeys(found_damage))
            places, searched_to_ms = page.places, page.searched_to_ms
            if searched_to_ms is None or not places:
                break
        more = None
        if places:
            more = encode_cursor(places, run_filter, oldest_first=oldest_first)
        ordered = sorted(runs.values(), key=lambda run: run.id, reverse=not oldest_first)
        return Found(ordered, more, searched_to_ms, list(damage))

    def count(
        self,
        run_filter: RunFilter = EVERY_RUN,
        *,
        most: int = 100_000,
        within_s: float = WITHIN_S,
    ) -> Count:
        """Count runs; see the port."""
        if not _is_unicode(run_filter):
            return Count(0)
        places: dict[str, Place] | None = None
        damage, number, searched_to_ms = dict[str, None](), 0, None
        for deadline in self._slices(Deadline(within_s, self._monotonic_s)):
            with self._question(run_filter) as (questions, _, found_damage):
                more, progress = count_matches(questions, places, most - number, deadline)
            number += more
            damage.update(dict.fromkeys(found_damage))
            places, searched_to_ms = progress.places, progress.searched_to_ms
            if not places or number > most:
                break
        if number > most:
            return Count(most, False, None, list(damage))
        return Count(number, not places, searched_to_ms, list(damage))

    def failures(
        self, run_filter: RunFilter = EVERY_RUN, *, within_s: float = WITHIN_S
    ) -> Failures:
        """Group failures; see the port."""
        states = TROUBLE_STATES.intersection(run_filter.states or TROUBLE_STATES)
        if not states or not _is_unicode(run_filter):
            return Failures([])
        in_trouble = msgspec.structs.replace(run_filter, states=tuple(sorted(states)))
        places: dict[str, Place] | None = None
        groups, damage, searched_to_ms = Groups(), dict[str, None](), None
        for deadline in self._slices(Deadline(within_s, self._monotonic_s)):
            with self._question(in_trouble) as (questions, _, found_damage):
                progress = group_failures(questions, places, groups, deadline)
            damage.update(dict.fromkeys(found_damage))
            places, searched_to_ms = progress.places, progress.searched_to_ms
            if not places:
                break
        return Failures(groups.groups(), searched_to_ms, list(damage))

    def children(self, run_id: str) -> list[RunSummary]:
        """Return the runs that RUN steps of a run started; see the port."""
        return self._select(lambda question: question.children(run_id))

    def replays_of(self, run_id: str) -> list[RunSummary]:
        """Return the runs that repeat a run; see the port."""
        with self._question(EVERY_RUN) as (_, handled, _):
            ids = set(handled.replays_of(run_id)[-MAX_REPLAYS:])
        return self._select(lambda question: question.with_ids(ids)) if ids else []

    def handled(self, run_ids: Sequence[str]) -> dict[str, Handled]:
        """Return what operators did last with runs; see the port."""
        with self._connections.question() as (connections, _):
            return HandledRuns(connections).of(run_ids)

    def minutes(
        self, since_ms: int, until_ms: int, *, flow: str | None = None, hours: bool = False
    ) -> list[Minute]:
        """Return counts by minute or hour; see the port."""
        with self._connections.question() as (connections, _):
            return read_minutes(connections, since_ms, until_ms, flow, hours=hours)

    def _select(self, select: Callable[[JournalQuestion], list[RunSummary]]) -> list[RunSummary]:
        with self._question(EVERY_RUN) as (questions, handled, _):
            runs = {run.id: run for question in questions for run in select(question)}
            return _with_handled(sorted(runs.values(), key=lambda run: run.id), handled)

    def _slices(self, deadline: Deadline) -> Iterator[Deadline]:
        """Yield deadlines until the time has ended, at least one.

        Each slice of a long question reads in a transaction of its own: a long transaction would
        let the -wal file of SQLite grow.
        """
        yield deadline.at_most(WITHIN_S)
        while not deadline.passed:
            yield deadline.at_most(WITHIN_S)

    @contextmanager
    def _question(
        self, run_filter: RunFilter
    ) -> Generator[tuple[list[JournalQuestion], HandledRuns, list[str]]]:
        with self._connections.question() as (connections, damage):
            handled = HandledRuns(connections)
            questions = [JournalQuestion(each, run_filter, handled) for each in connections]
            yield questions, handled, damage


def _with_handled(runs: list[RunSummary], handled: HandledRuns) -> list[RunSummary]:
    """Add what operators did with runs, and which runs they repeat."""
    ids = [run.id for run in runs]
    by_id = handled.of(ids)
    repeating = [run.id for run in runs if run.source == "replay" and run.replays is None]
    originals = handled.originals_of(repeating) if repeating else {}
    if not by_id and not originals:
        return runs
    return [
        msgspec.structs.replace(
            run, handled=by_id.get(run.id), replays=run.replays or originals.get(run.id)
        )
        for run in runs
    ]


def _is_unicode(run_filter: RunFilter) -> bool:
    """Return whether all texts are valid Unicode. Otherwise no run matches."""
    try:
        _ = msgspec.json.encode(run_filter)
    except UnicodeEncodeError:
        return False
    return True
