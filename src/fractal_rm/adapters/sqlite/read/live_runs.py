"""Runs that a history does not have yet, or has in an earlier state, from memory.

In the process that writes the log they are still in memory. So the log need not be read again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

import msgspec

from fractal_rm.adapters.log import timed
from fractal_rm.adapters.log.history import Projected
from fractal_rm.adapters.log.recent_updates import Unprojected
from fractal_rm.adapters.log.records import encode
from fractal_rm.adapters.log.run_updates import RunStart, RunUpdate, RunUpdates
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.faults import read_components
from fractal_rm.adapters.sqlite.format.run_row import RunRow
from fractal_rm.domain.facts import Discarded
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import TROUBLE_STATES, State
from fractal_rm.engine.ports import Handled, RunSummary


class LiveRuns:
    """The updates of one journal, at one moment. ``journal`` is its name.

    They are those that a history lacks in which the log was copied up to ``projected``, which is
    ``updates.since`` or ``updates.until``. ``summary_of`` makes a summary from a row of it.
    """

    def __init__(
        self,
        journal: str,
        updates: Unprojected,
        projected: Projected,
        summary_of: Callable[[RunRow], RunSummary],
    ) -> None:
        self._journal = journal
        self._summary_of = summary_of
        copied = projected == updates.until != updates.since
        self._parts = [updates.current] if copied else [updates.copying, updates.current]
        self._flows = {
            version: body for part in self._parts for version, body in part.flows.items()
        }
        self._updates: dict[str, RunUpdate] = {}
        self._starts: dict[str, RunStart] = {}
        for part in self._parts:
            self._add(part)

    def _add(self, part: RunUpdates) -> None:
        for updates in (part.open, part.ended):
            for run_id, update in updates.items():
                if update.new is not None:
                    self._starts[run_id] = update.new
                if update.current_state is not None or run_id not in self._updates:
                    self._updates[run_id] = update

    def new_ids(self) -> list[str]:
        """The ids of runs that the history does not have."""
        return list(self._starts)

    def changed_ids(self) -> list[str]:
        """The ids of runs that the history has in an earlier state."""
        return [run_id for run_id in self._updates if run_id not in self._starts]

    def handled(self) -> Iterator[tuple[str, Handled]]:
        """What operators did with runs, by their ids, as far as the history lacks it."""
        for run_id, start in self._starts.items():
            if start.replays is not None:
                yield start.replays, Handled(run_id, start.accepted_ms, start.actor)
        for part in self._parts:
            for run_id, facts in part.after_end.items():
                for each in timed.decode_page(encode(list(facts))):
                    if isinstance(each.fact, Discarded):
                        yield run_id, Handled(None, each.at_ms, each.fact.actor)

    def has_facts_of(self, run_id: str) -> bool:
        """Whether there are facts of a run that the history does not have."""
        return run_id in self._updates or any(run_id in part.after_end for part in self._parts)

    def may_match(self, run_id: str, wanted: RunFilter) -> bool:
        """Whether a new run has the flow and a state of a filter."""
        if wanted.flow is not None and wanted.flow != self._starts[run_id].flow:
            return False
        state = self._updates[run_id].current_state
        return wanted.states is None or state in wanted.states

    def summary(self, db: sqlite3.Connection, run_id: str) -> RunSummary | None:
        """The run in its present state; None: the history should have it, and has not."""
        start = self._starts.get(run_id)
        if start is None:
            return self._changed(db, run_id)
        first = RunSummary(
            run_id, start.flow, State.NEW, "", start.source, None, start.accepted_ms, None,
            self._journal, start.parent, None, None, start.replays,
        )  # fmt: skip
        return self._now(db, first, lambda: start.version)

    def _changed(self, db: sqlite3.Connection, run_id: str) -> RunSummary | None:
        values = db.execute(f"{statements.ALL_RUNS} WHERE id = ?", (run_id,)).fetchone()
        if values is None:
            return None
        row = RunRow._make(values)
        before = self._summary_of(row)

        def version() -> str:
            found = db.execute(statements.FIRST_VERSION, (row.no,)).fetchone()
            return str(found[0]) if found else ""

        return self._now(db, before, version)

    def _now(
        self, db: sqlite3.Connection, before: RunSummary, version: Callable[[], str]
    ) -> RunSummary:
        """A run after its update. ``version`` looks the version of its flow up."""
        update = self._updates[before.id]
        state, reason, node = update.state, update.reason, update.node
        failed_step, cause = update.failed_step, update.cause
        run = update.run
        if run is not None and not run.state.final:  # otherwise its end is not written yet
            state, reason, node = run.state, run.reason, run.node
            failed_step, cause = run.progress.failed_step, run.cause and run.cause.value
        if state is State.NEW:
            return before
        component = None
        if state not in TROUBLE_STATES:
            cause = None
        elif failed_step is not None:
            component = read_components(db, version(), self._flows).get(failed_step)
        return msgspec.structs.replace(
            before, state=state, reason=reason, node=node, component=component, cause=cause,
            settled_ms=update.settled_ms,
        )  # fmt: skip
