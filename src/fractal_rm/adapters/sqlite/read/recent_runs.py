"""Runs of a log that its history does not have yet, or has in an earlier state.

Each byte of the log is read once: each call of `refresh` goes on where the last one stopped. Facts
are decoded only when somebody asks for a run. Most runs of a busy node are in the history before.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import UNSET

from fractal_rm.adapters.log import records, timed
from fractal_rm.adapters.log.disk import FolderDisk
from fractal_rm.adapters.log.history import Projected
from fractal_rm.adapters.log.segments import bodies_since
from fractal_rm.adapters.sqlite.format.faults import read_components
from fractal_rm.adapters.sqlite.format.run_row import RunRow
from fractal_rm.adapters.sqlite.read.open_runs import load_run
from fractal_rm.domain.facts import (
    Accepted,
    AnyFact,
    Dead,
    Discarded,
    Settled,
    none_if_unset,
)
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.journal_errors import JournalDamaged
from fractal_rm.domain.run import Run, apply_fact, parent_id_of
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import TROUBLE_STATES, State
from fractal_rm.domain.transitions import ImpossibleFact
from fractal_rm.engine.ports import Handled, RunSummary

_MAY_REPLAY = b'"replays":'


class _Recent(msgspec.Struct, gc=False):
    """A run with facts in the log. ``facts`` have the positions after their frames.

    ``began``: the position after the frame of its beginning; None: it began before. ``ended``: the
    position after the frame of its end; None: it is open. ``last``: the position after its last
    fact. ``summary`` is computed from the facts when it is needed.
    """

    run_id: str
    flow: str | None
    began: int | None
    facts: list[tuple[int, msgspec.Raw]]
    last: int
    ended: int | None = None
    summary: RunSummary | None = None


class RecentRuns:
    """The runs of one log. ``journal`` is the name of the journal."""

    def __init__(self, folder: Path, journal: str) -> None:
        self._disk = FolderDisk(folder)
        self._folder = folder
        self._journal = journal
        self._runs: dict[str, _Recent] = {}
        self._flows: dict[str, bytes] = {}
        self._handled: list[tuple[int, str, Handled]] = []  # position, run id
        self._positions = Projected(-1, -1)
        self._at = -1

    def refresh(self, positions: Projected) -> None:
        """Read what was written since the last call, and forget what the history has.

        Raises SegmentReleased, JournalDamaged, JournalTooNew, OSError.
        """
        if self._at < positions.all:  # the first call, or the history has overtaken
            self.forget()
            self._at = positions.all
        if not self._folder.exists():
            return
        for body, end in bodies_since(self._disk, self._at):
            try:
                decoded = records.decode(body)
            except (msgspec.MsgspecError, RecursionError) as error:
                raise JournalDamaged(f"a frame of the log cannot be decoded: {error}") from error
            for record in decoded:
                self._add(record, end)
            self._at = end
        if positions != self._positions:
            self._forget_projected(positions)

    def forget(self) -> None:
        """Forget everything. The next call of `refresh` reads all of the log."""
        self._runs, self._flows, self._handled = {}, {}, []
        self._at, self._positions = -1, Projected(-1, -1)

    def new_ids(self, wanted: RunFilter) -> list[str]:
        """The ids of the runs that the history does not have and that may match, in order."""
        all_runs = self._positions.all
        return sorted(
            each.run_id
            for each in self._runs.values()
            if each.began is not None and each.began > all_runs
            if wanted.flow is None or wanted.flow == each.flow
        )

    def changed_ids(self) -> list[str]:
        """The ids of runs that the history has in an earlier state."""
        all_runs = self._positions.all
        return [
            each.run_id
            for each in self._runs.values()
            if each.began is None or each.began <= all_runs
        ]

    def handled(self) -> Iterator[tuple[str, Handled]]:
        """What operators did with runs, by their ids, as far as it is in the log."""
        for _, run_id, handled in self._handled:
            yield run_id, handled

    def has_facts_of(self, run_id: str) -> bool:
        """Whether the log has facts of a run that the history does not have."""
        return run_id in self._runs or any(
            each == run_id and handled.by_run is None for _, each, handled in self._handled
        )

    def whole_run(self, _run_id: str) -> None:
        """All facts of a run: they are not decoded here."""

    def may_match(self, _run_id: str, _wanted: RunFilter) -> bool:
        """Whether a run may match a filter. All may: that is known when facts are decoded."""
        return True

    def can_count(self, _wanted: RunFilter) -> bool:
        """Whether all runs of `new_ids` match: that is not known before facts are decoded."""
        return False

    def summary(self, db: sqlite3.Connection, run_id: str) -> RunSummary | None:
        """The run in its present state; None if its facts cannot be understood."""
        recent = self._runs[run_id]
        if recent.summary is None:
            recent.summary = self._summary(db, recent)
        return recent.summary

    def changed_summary(self, db: sqlite3.Connection, row: RunRow) -> RunSummary | None:
        """The run of a row in its present state; None: its facts cannot be understood."""
        return self.summary(db, row.id)

    def _add(self, record: records.Record, end: int) -> None:
        if isinstance(record, (records.FactRecord, records.EndRecord)):
            recent = self._runs.get(record.run_id)
            if recent is None:
                recent = self._runs[record.run_id] = _Recent(record.run_id, None, None, [], end)
            recent.facts.append((end, record.fact))
            recent.last, recent.summary = end, None
            if isinstance(record, records.EndRecord):
                recent.ended = end
        elif isinstance(record, records.RunRecord):
            first = record.facts[0]
            facts = [(end, fact) for fact in record.facts]
            recent = _Recent(record.run_id, record.flow, end, facts, end)
            self._runs[record.run_id] = recent
            if record.flow is None or _is_end(record.facts):
                recent.ended = end
            if _MAY_REPLAY in bytes(first):
                self._add_replay(record.run_id, first, end)
        elif isinstance(record, records.AfterEndRecord):
            at_ms, fact = timed.decode_any_release(record.fact)
            if isinstance(fact, Discarded):
                self._handled.append((end, record.run_id, Handled(None, at_ms, fact.actor)))
        elif isinstance(record, records.FlowRecord):
            self._flows[record.version] = bytes(record.body)

    def _add_replay(self, run_id: str, first: msgspec.Raw, end: int) -> None:
        at_ms, fact = timed.decode_any_release(first)
        if isinstance(fact, Accepted) and fact.replays is not UNSET:
            handled = Handled(run_id, at_ms, none_if_unset(fact.actor))
            self._handled.append((end, fact.replays, handled))

    def _forget_projected(self, positions: Projected) -> None:
        self._positions = positions
        self._runs = {
            run_id: recent
            for run_id, recent in self._runs.items()
            if recent.last > (positions.all if recent.ended is None else positions.ended)
        }
        # A fact after the end is copied with ended runs; a replay perhaps later, with open runs.
        self._handled = [each for each in self._handled if each[0] > positions.all]
        for recent in self._runs.values():
            if recent.began is None or recent.began <= positions.all:
                recent.summary = None  # the history has some of its facts now

    def _summary(self, db: sqlite3.Connection, recent: _Recent) -> RunSummary | None:
        all_runs = self._positions.all
        if recent.began is not None and recent.began > all_runs:
            at_ms, first = timed.decode_any_release(recent.facts[0][1])
            run: Run | None = Run(recent.run_id, Flow(recent.flow or ""), at_ms)
            facts = [raw for _, raw in recent.facts]
        else:
            run = load_run(db, recent.run_id)
            facts = [raw for position, raw in recent.facts if position > all_runs]
            first = None if run is None else run.accepted
        if run is None:
            return None
        settled_ms = _apply(run, facts)
        source = first.source if isinstance(first, (Accepted, Dead)) else ""
        replays = first.replays if isinstance(first, Accepted) else UNSET
        component, cause = self._fault_of(db, run)
        return RunSummary(
            run.id, run.flow.id or None, run.state, run.reason, source, run.node, run.accepted_ms,
            settled_ms, self._journal, parent_id_of(first) if first is not None else None,
            component, cause, none_if_unset(replays),
        )  # fmt: skip

    def _fault_of(self, db: sqlite3.Connection, run: Run) -> tuple[str | None, str | None]:
        """The component that a run in trouble called last, and its cause."""
        if run.state not in TROUBLE_STATES:
            return None, None
        component, step = None, run.progress.failed_step
        if step is not None:
            component = read_components(db, run.accepted.version, self._flows).get(step)
        return component, run.cause and run.cause.value


def _is_end(facts: list[msgspec.Raw]) -> bool:
    """Whether the first facts of a run end it. A run seldom begins with more than one fact."""
    if len(facts) == 1:
        return False
    _, last = timed.decode_any_release(facts[-1])
    return isinstance(last, (Settled, Dead))


def _apply(run: Run, facts: list[msgspec.Raw]) -> int | None:
    """Apply facts, as far as they are possible. Returns the time of the end of the run, if any."""
    settled_ms, is_valid = None, True
    for raw in facts:
        at_ms, fact = timed.decode_any_release(raw)
        if is_valid:
            is_valid = fact is not None and _apply_one(run, fact)
        if not is_valid and isinstance(fact, Dead):  # the run was set aside
            run.state = State.DEAD
            apply_fact(run, fact)
        if run.state.final and settled_ms is None:
            settled_ms = at_ms
    return settled_ms


def _apply_one(run: Run, fact: AnyFact) -> bool:
    try:
        run.apply(fact)
    except ImpossibleFact:
        return False
    return True
