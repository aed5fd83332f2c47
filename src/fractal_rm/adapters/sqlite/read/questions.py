"""Answers questions about runs by reading all rows (the first version, which is slow)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import UNSET

from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.faults import shape_of
from fractal_rm.adapters.sqlite.format.page_chain import valid_facts
from fractal_rm.adapters.sqlite.read.snapshot import journals_in, snapshot
from fractal_rm.domain.facts import Accepted, Discarded
from fractal_rm.domain.journal_errors import JournalDamaged
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import TROUBLE_STATES, State
from fractal_rm.engine.ports import (
    EVERY_RUN,
    Count,
    FailureGroup,
    Failures,
    Found,
    Handled,
    Minute,
    RunSummary,
    WrongCursor,
)

_ROWS = (
    "SELECT runs.id, runs.flow, runs.state, reason, source, node, accepted_ms, settled_ms, parent,"
    " component, cause, runs.no, pages, chain FROM runs LEFT JOIN faults ON faults.no = fault"
)


class Questions:
    """Answers the questions of the port `History` about many runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(
        self,
        run_filter: RunFilter = EVERY_RUN,
        *,
        cursor: str | None = None,
        limit: int = 50,
        oldest_first: bool = False,
        within_s: float = 0.1,  # noqa: ARG002
    ) -> Found:
        """Answer the question; see the port."""
        runs, unreadable = self._matching(run_filter)
        runs.sort(key=lambda run: run.id, reverse=not oldest_first)
        if cursor is not None:
            if not cursor.startswith("after-"):
                raise WrongCursor("the cursor is not one that a list has returned")
            last = cursor.removeprefix("after-")
            runs = [run for run in runs if (run.id > last if oldest_first else run.id < last)]
        page = runs[:limit]
        more = f"after-{page[-1].id}" if len(runs) > limit and page else None
        return Found(page, more, None, unreadable)

    def count(
        self,
        run_filter: RunFilter = EVERY_RUN,
        *,
        most: int = 100_000,
        within_s: float = 0.1,  # noqa: ARG002
    ) -> Count:
        """Answer the question; see the port."""
        runs, unreadable = self._matching(run_filter)
        return Count(min(len(runs), most), len(runs) <= most, None, unreadable)

    def failures(self, run_filter: RunFilter = EVERY_RUN, *, within_s: float = 0.1) -> Failures:  # noqa: ARG002
        """Answer the question; see the port."""
        runs, unreadable = self._matching(run_filter)
        groups: dict[tuple[object, ...], list[RunSummary]] = {}
        for run in runs:
            if run.state in TROUBLE_STATES:
                key = run.state, run.flow, run.component, run.cause, shape_of(run.reason)
                groups.setdefault(key, []).append(run)
        result = [_group(members) for members in groups.values()]
        result.sort(key=lambda group: group.last_ms, reverse=True)
        return Failures(result, None, unreadable)

    def children(self, run_id: str) -> list[RunSummary]:
        """Answer the question; see the port."""
        runs, _ = self._matching(EVERY_RUN)
        return sorted((run for run in runs if run.parent == run_id), key=lambda run: run.id)

    def replays_of(self, run_id: str) -> list[RunSummary]:
        """Answer the question; see the port."""
        runs, _ = self._matching(EVERY_RUN)
        return sorted((run for run in runs if run.replays == run_id), key=lambda run: run.id)

    def handled(self, run_ids: Sequence[str]) -> dict[str, Handled]:
        """Answer the question; see the port."""
        runs, _ = self._matching(EVERY_RUN)
        return {run.id: run.handled for run in runs if run.id in run_ids and run.handled}

    def minutes(
        self, since_ms: int, until_ms: int, *, flow: str | None = None, hours: bool = False
    ) -> list[Minute]:
        """Answer the question; see the port."""
        size = 3_600_000 if hours else 60_000
        counts: dict[tuple[int, str | None, State], list[int]] = {}
        for run in self._matching(RunFilter(flow=flow))[0]:
            began = run.accepted_ms // size * size, run.flow, State.ACCEPTED
            counts.setdefault(began, []).append(-1)
            if run.settled_ms is not None:
                ended = run.settled_ms // size * size, run.flow, run.state
                counts.setdefault(ended, []).append(run.settled_ms - run.accepted_ms)
        return [
            Minute(at_ms, of, state, len(durations), buckets(durations))
            for (at_ms, of, state), durations in sorted(counts.items(), key=str)
            if since_ms <= at_ms < until_ms
        ]

    def _matching(self, run_filter: RunFilter) -> tuple[list[RunSummary], list[str]]:
        runs: dict[str, RunSummary] = {}
        handled: dict[str, Handled] = {}
        unreadable: list[str] = []
        for path in journals_in(self._folder):
            damage: list[str] = []
            try:
                with snapshot(path, damage=damage) as db:
                    for run in _summaries(db, path, handled):
                        runs[run.id] = run
            except JournalDamaged as error:
                damage.append(str(error))
            unreadable += [f"{path.stem}: {each}" for each in damage]
        all_runs = (
            msgspec.structs.replace(run, handled=handled.get(run.id)) for run in runs.values()
        )
        return [run for run in all_runs if matches(run_filter, run)], unreadable


def _summaries(
    db: sqlite3.Connection, path: Path, handled: dict[str, Handled]
) -> Iterator[RunSummary]:
    for row in db.execute(_ROWS).fetchall():
        run_id, flow, state, reason, source, node, accepted_ms, settled_ms, *others = row
        parent, component, cause, no, pages, chain = others
        replays = None
        if pages:
            rows = db.execute(statements.READ_PAGES_OF_RUN, (no,))
            facts, _ = valid_facts(run_id, rows, pages, chain, lambda _: None)
            for at_ms, fact in facts:
                if isinstance(fact, Accepted) and fact.replays is not UNSET:
                    replays = fact.replays
                    actor = None if fact.actor is UNSET else fact.actor
                    handled[fact.replays] = Handled(run_id, at_ms, actor)
                elif isinstance(fact, Discarded):
                    handled[run_id] = Handled(None, at_ms, fact.actor)
        yield RunSummary(
            run_id, flow, State(state), reason, source, node, accepted_ms, settled_ms, path.stem,
            parent, component, cause, replays,
        )  # fmt: skip


def matches(run_filter: RunFilter, run: RunSummary) -> bool:
    """Return whether a run fulfils all conditions of a filter."""
    in_trouble = run.state in TROUBLE_STATES
    return all((
        run_filter.flow in (None, run.flow),
        run_filter.states is None or run.state in run_filter.states,
        run_filter.component is None or (in_trouble and run.component == run_filter.component),
        run_filter.cause is None or (in_trouble and run.cause == run_filter.cause),
        run_filter.text is None
        or (in_trouble and run_filter.text.casefold() in run.reason.casefold()),
        run_filter.node is None or run_filter.node == (run.node or "here"),
        run_filter.source in (None, run.source),
        run_filter.since_ms is None or run.accepted_ms >= run_filter.since_ms,
        run_filter.until_ms is None or run.accepted_ms < run_filter.until_ms,
        run_filter.handled in (None, run.handled is not None),
        run_filter.dead_letters in (None, run.flow is None),
    ))  # fmt: skip


def buckets(durations: Iterable[int]) -> list[int]:
    """Return how many durations (ms) need n bits, for each n. Negative ones are left out."""
    counts: list[int] = []
    for bits in (duration.bit_length() for duration in durations if duration >= 0):
        counts += [0] * (bits + 1 - len(counts))
        counts[bits] += 1
    return counts


def _group(runs: list[RunSummary]) -> FailureGroup:
    newest = max(runs, key=lambda run: run.id)
    times = [run.accepted_ms for run in runs]
    return FailureGroup(
        newest.state, newest.flow, newest.component, newest.cause, shape_of(newest.reason),
        len(runs), min(times), max(times), newest.id, newest.reason,
    )  # fmt: skip
