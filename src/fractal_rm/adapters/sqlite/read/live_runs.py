"""Runs that a history does not have yet, or has in an earlier state, from memory.

In the process that writes the log they are still in memory. So the log need not be read again.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from typing import Union

import msgspec
from msgspec import UNSET, UnsetType

from fractal_rm.adapters.log import timed
from fractal_rm.adapters.log.history import Projected
from fractal_rm.adapters.log.recent_updates import Unprojected
from fractal_rm.adapters.log.records import encode
from fractal_rm.adapters.log.run_updates import RunStart, RunUpdate, RunUpdates
from fractal_rm.adapters.log.timed import Timed
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.faults import read_components
from fractal_rm.adapters.sqlite.format.row_sums import checksum_matches
from fractal_rm.adapters.sqlite.format.run_row import RunRow
from fractal_rm.domain.facts import Discarded
from fractal_rm.domain.flow import KeepSettings
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import TROUBLE_STATES, State
from fractal_rm.engine.ports import Handled, RunSummary


class Index:
    """The runs by what is asked about them: there may be thousands, and each is looked at once.

    ``new``: the ids of new runs, by flow and state. ``changed``: the ids of the others.
    ``replays``: what the new runs that repeat a run say about it.
    """

    def __init__(self) -> None:
        self.new = defaultdict[tuple[Union[str, None], State], list[str]](list)
        self.changed = set[str]()
        self.replays: list[tuple[str, Handled]] = []

    def add_newest(self, updates: Mapping[str, RunUpdate]) -> None:
        """Add updates. Each says the state of its run."""
        for run_id, update in updates.items():
            start = update.new
            if start is None:
                self.changed.add(run_id)
            else:
                self.add_start(run_id, start, update)

    def add_start(self, run_id: str, start: RunStart, newest: RunUpdate) -> None:
        """Add a new run, whose state ``newest`` says."""
        run = newest.run
        self.new[start.flow, newest.state if run is None else run.state].append(run_id)
        if start.replays is not None:
            handled = Handled(run_id, start.accepted_ms, start.actor)
            self.replays.append((start.replays, handled))


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
        self._newest = updates.current
        self._copying = RunUpdates() if copied else updates.copying
        self._parts = (self._newest, self._copying)
        self._maps = [each for part in self._parts for each in (part.ended, part.open)]

    def new_ids(self, wanted: RunFilter) -> list[str]:
        """The ids of the runs that the history does not have and that may match, in order."""
        found = list[str]()
        for (flow, state), ids in self._index.new.items():
            if (
                wanted.flow in (None, flow)
                and wanted.dead_letters in (None, flow is None)
                and (wanted.states is None or state in wanted.states)
            ):
                found += ids
        found.sort()  # they are almost in order
        return list(dict.fromkeys(found))  # one that ends just now may be there twice

    def changed_ids(self) -> Collection[str]:
        """The ids of runs that the history has in an earlier state."""
        return self._index.changed

    @cached_property
    def _index(self) -> Index:
        index = Index()
        for updates in (self._newest.ended, self._newest.open):
            index.add_newest(updates)
        for updates in (self._copying.ended, self._copying.open):
            for run_id, update in updates.items():
                if update.new is None:
                    index.changed.add(run_id)
                else:
                    index.changed.discard(run_id)
                    index.add_start(run_id, update.new, self._update(run_id))
        return index

    def __len__(self) -> int:
        """The number of updates."""
        return sum(map(len, self._maps))

    def may_match(self, run_id: str, wanted: RunFilter) -> bool:
        """Whether a run is in a state of a filter, as far as it can be told without its row."""
        if wanted.states is None:
            return True
        update = self._update(run_id)
        state = update.state if update.run is None else update.run.state
        return state is State.NEW or state in wanted.states

    def can_count(self, wanted: RunFilter) -> bool:
        """Whether all runs of `new_ids` match: the filter has no other conditions."""
        return (
            RunFilter(flow=wanted.flow, states=wanted.states, dead_letters=wanted.dead_letters)
            == wanted
        )

    def handled(self) -> Iterator[tuple[str, Handled]]:
        """What operators did with runs, by their ids, as far as the history lacks it."""
        yield from self._index.replays
        for part in self._parts:
            for run_id, facts in part.after_end.items():
                for each in timed.decode_page(encode(facts)):
                    if isinstance(each.fact, Discarded):
                        yield run_id, Handled(None, each.at_ms, each.fact.actor)

    def has_facts_of(self, run_id: str) -> bool:
        """Whether there are facts of a run that the history does not have."""
        found = any(run_id in updates for updates in self._maps)
        return found or any(run_id in part.after_end for part in self._parts)

    def whole_run(self, run_id: str) -> tuple[list[Timed], KeepSettings | UnsetType] | None:
        """The facts of a run that began here, and what its flow keeps; None: it began before."""
        facts, keeping = list[Timed](), UNSET
        for part in reversed(self._parts):
            update = part.ended.get(run_id) or part.open.get(run_id)
            if update is not None:
                if update.new is None and not facts:
                    return None
                keeping = update.keeping if update.run is None else update.run.flow.keeping
                facts += timed.decode_page(update.body())
            if facts:
                facts += timed.decode_page(encode(part.after_end.get(run_id, [])))
        return (facts, keeping) if facts else None

    def summary(self, db: sqlite3.Connection, run_id: str) -> RunSummary | None:
        """The run in its present state; None: it did not begin here."""
        start = self._start(run_id)
        if start is None:
            return None
        first = RunSummary(
            run_id, start.flow, State.NEW, "", start.source, None, start.accepted_ms, None,
            self._journal, start.parent, None, None, start.replays,
        )  # fmt: skip
        return self._now(db, first, lambda: start.version)

    def changed_summary(self, db: sqlite3.Connection, row: RunRow) -> RunSummary | None:
        """The run of a row in its present state; None: the row is damaged."""
        if not checksum_matches(row):
            return None

        def version() -> str:
            found = db.execute(statements.FIRST_VERSION, (row.no,)).fetchone()
            return str(found[0]) if found else ""

        return self._now(db, self._summary_of(row), version)

    def _now(
        self, db: sqlite3.Connection, before: RunSummary, version: Callable[[], str]
    ) -> RunSummary:
        """A run after its update. ``version`` looks the version of its flow up."""
        update = self._update(before.id)
        state, reason, node = update.state, update.reason, update.node
        failed_step, cause = update.failed_step, update.cause
        run = update.run
        if run is not None and not run.state.final:  # its end is not written yet
            state, reason, node = run.state, run.reason, run.node
            failed_step, cause = run.progress.failed_step, run.cause and run.cause.value
        if state is State.NEW:
            return before
        component = None
        if state not in TROUBLE_STATES:
            cause = None
        elif failed_step is not None:
            flows = {each: body for part in self._parts for each, body in part.flows.items()}
            component = read_components(db, version(), flows).get(failed_step)
        return msgspec.structs.replace(
            before, state=state, reason=reason, node=node, component=component, cause=cause,
            settled_ms=update.settled_ms,
        )  # fmt: skip

    def _update(self, run_id: str) -> RunUpdate:
        """The newest update of a run that says its state, or else any."""
        found = [updates[run_id] for updates in self._maps if run_id in updates]
        return next((each for each in found if each.current_state is not None), found[0])

    def _start(self, run_id: str) -> RunStart | None:
        for updates in self._maps:
            update = updates.get(run_id)
            if update is not None and update.new is not None:
                return update.new
        return None
