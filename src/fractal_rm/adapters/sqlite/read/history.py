"""Read the runs of all journals in a state folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from fractal_rm.adapters.clock import NodeClock
from fractal_rm.adapters.sqlite.format.page_chain import ChainBroken
from fractal_rm.adapters.sqlite.format.row_sums import checksum_matches
from fractal_rm.adapters.sqlite.format.run_row import RunRow
from fractal_rm.adapters.sqlite.format.schema import LOSSES
from fractal_rm.adapters.sqlite.format.statements import READ_META
from fractal_rm.adapters.sqlite.read.connection import JournalConnection
from fractal_rm.adapters.sqlite.read.definitions import recorded_flow
from fractal_rm.adapters.sqlite.read.lists import RunFilter, newest_runs, one_run
from fractal_rm.adapters.sqlite.read.outlines import (
    OutlineReader,
    ReadFacts,
    StoredFacts,
    read_facts,
)
from fractal_rm.adapters.sqlite.read.questions import Questions
from fractal_rm.adapters.sqlite.read.snapshot import journals_in, snapshot
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.journal_errors import JournalDamaged, JournalError
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import (
    FlowCounts,
    RunDetail,
    RunOutline,
    RunPage,
    RunSummary,
)

# These statements do not count runs whose pages were dropped because of their age.
_STATES = (
    "SELECT flow, state, count(*), sum(duplicates), sum(source = 'replay') FROM runs"
    " WHERE pages > 0 GROUP BY flow, state"
)
_RECEIVED = (
    "SELECT json_extract(CAST(body AS TEXT), '$[0][1].flow') AS of, count(*) FROM pages WHERE n = 1"
    " AND json_valid(CAST(body AS TEXT)) GROUP BY of"
)
# `instr` quickly selects the few pages that contain the text. A payload may also contain the text,
# so `json_extract` then checks the field.
_MAYBE_TWICE = """
    SELECT runs.flow, count(DISTINCT runs.no)
    FROM pages JOIN runs ON runs.no = pages.run,
         json_each(iif(json_valid(CAST(pages.body AS TEXT)), CAST(pages.body AS TEXT), NULL))
    WHERE instr(pages.body, CAST('"maybe_twice":true' AS BLOB))
          AND json_extract(value, '$[1].maybe_twice')
    GROUP BY runs.flow
"""


class Losses(msgspec.Struct, frozen=True):
    """Losses that repairs found: the number of lost places of the log, and of incomplete runs."""

    places: int
    runs: int


class SqliteHistory(Questions):
    """The port `History`. Each call opens its own connection, as calls are rare.

    Methods raise JournalError if a journal or the folder cannot be read.
    """

    def __init__(
        self, folder: Path, monotonic_s: Callable[[], float] = NodeClock.monotonic_s
    ) -> None:
        super().__init__(folder, monotonic_s)
        self.folder = folder

    def runs(
        self,
        *,
        state: State | None = None,
        flow: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[RunSummary]:
        """Return the newest runs that can be read; see `page`."""
        return self.page(state=state, flow=flow, limit=limit, before=before).runs

    def page(
        self,
        *,
        state: State | None = None,
        flow: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> RunPage:
        """Return a page of runs, newest first; see the port."""
        run_filter = RunFilter(state and state.value, flow, before, limit)
        summaries: list[RunSummary] = []
        unreadable: list[str] = []
        for path in self._journals():
            damage: list[str] = []
            try:
                with snapshot(path, damage=damage) as db:
                    rows, damaged_rows = newest_runs(db, run_filter)
                    summaries += [_summary(row, path) for row in rows]
                    damage += damaged_rows
            except JournalDamaged as error:  # the other journals are still read
                damage.append(str(error))
            unreadable += [f"{path.stem}: {each}" for each in damage]
        # A run that is being moved may be in two journals.
        by_id = {run.id: run for run in summaries}
        runs = sorted(by_id.values(), key=lambda run: run.id, reverse=True)
        return RunPage(runs[:limit], unreadable)

    def run(self, run_id: str) -> RunDetail | None:
        """Return one run, or None; see the port.

        Raises JournalDamaged if the run is not found and a part of a journal cannot be read.
        """
        return self._run(run_id, read_facts, fresh=True)

    def outline(self, run_id: str, *, whole: int | None = None) -> RunOutline | None:
        """Return one run without the rest of its large values; see the port. Raises as `run`."""
        reader = OutlineReader(whole)
        detail = self._run(run_id, reader)
        if detail is None:
            return None
        return RunOutline(detail.summary, detail.facts, detail.unreadable, reader.sizes)

    def _run(self, run_id: str, read: ReadFacts, *, fresh: bool = False) -> RunDetail | None:
        detail = self._run_in_history(run_id, read, fresh=fresh)
        if detail is not None:
            return detail
        error: JournalDamaged | None = None
        for path in self._journals():
            damage: list[str] = []
            try:
                with snapshot(path, damage=damage) as db:
                    row = one_run(db, run_id)
                    if row is not None:
                        facts, problem = read(StoredFacts.of(db, row), path)
                        unreadable = problem or next(iter(damage), None)
                        return RunDetail(_summary(row, path), facts, unreadable)
            except JournalDamaged as caught:  # another journal may have the run
                error = caught
            else:
                if damage:
                    error = JournalDamaged(damage[0])
        if error is not None:
            raise error
        return None

    def _run_in_history(self, run_id: str, read: ReadFacts, *, fresh: bool) -> RunDetail | None:
        """Return a run over the kept connections, without reading a whole log.

        None: no history has it, its log has other facts of it, or something is damaged.
        """
        try:
            with self._connections.question(fresh=fresh) as (connections, _):
                for connection in connections:
                    stored = _stored(connection, run_id)
                    if stored is not None:
                        summary, stored_facts = stored
                        facts, problem = read(stored_facts, connection.path)
                        return None if problem else RunDetail(summary, facts)
        except (JournalError, UnicodeEncodeError):
            pass  # `run` reads again, and reports the error
        return None

    def recorded_flow(self, journal: str, version: str) -> Flow | None:
        """Return the definition of a flow with which runs began, or None; see the port."""
        return recorded_flow(self.folder, journal, version)

    def flow_counts(self) -> list[FlowCounts]:
        """Return the counts of every flow; see the port.

        Runs that are only in a damaged log are not counted.
        """
        states: dict[str | None, Counter[State]] = {}
        received: Counter[str | None] = Counter()
        duplicates: Counter[str | None] = Counter()
        maybe_twice: Counter[str | None] = Counter()
        repeated: Counter[str | None] = Counter()
        for path in self._journals():
            with snapshot(path, damage=[]) as db:
                for flow, count in db.execute(_RECEIVED):
                    received[flow] += count
                for flow, state, count, duplicate, replays in db.execute(_STATES):
                    states.setdefault(flow, Counter())[State(state)] += count
                    duplicates[flow] += duplicate
                    repeated[flow] += replays
                maybe_twice.update(dict(db.execute(_MAYBE_TWICE)))
        return [
            FlowCounts(
                flow,
                received[flow],
                states.get(flow, {}),
                duplicates[flow],
                maybe_twice[flow],
                repeated[flow],
            )
            for flow in sorted(received.keys() | states.keys(), key=str)
        ]

    def losses(self) -> dict[str, Losses]:
        """Return the losses that repairs found, by the name of the journal."""
        by_journal: dict[str, Losses] = {}
        for path in self._journals():
            with snapshot(path, with_log=False) as db:
                rows = [db.execute(READ_META, (name,)).fetchone() or (0,) for name in LOSSES]
            losses = Losses(*(value for (value,) in rows))
            if losses.places or losses.runs:
                by_journal[path.stem] = losses
        return by_journal

    def _journals(self) -> list[Path]:
        return journals_in(self.folder)


def _stored(connection: JournalConnection, run_id: str) -> tuple[RunSummary, StoredFacts] | None:
    """Return a run of one journal; None: it is not there, or not all of it is known."""
    recent, db = connection.recent, connection.db
    if connection.damage:
        return None
    if recent.has_facts_of(run_id):
        whole = recent.whole_run(run_id)
        summary = None if whole is None else recent.summary(db, run_id)
        if whole is None or summary is None:
            return None
        return _as_listed(summary), StoredFacts(*whole)
    row = one_run(db, run_id)
    return None if row is None else (_summary(row, connection.path), StoredFacts.of(db, row))


def _as_listed(run: RunSummary) -> RunSummary:
    """Leave out what `History.run` leaves out; see `RunSummary`."""
    return msgspec.structs.replace(run, parent=None, component=None, cause=None, replays=None)


def _summary(row: RunRow, path: Path) -> RunSummary:
    """Return the summary of a row of ``runs``. Raises ChainBroken for a wrong checksum."""
    if not checksum_matches(row):
        raise ChainBroken(f"the row of run {row.id} does not match its checksum")
    return RunSummary(
        row.id, row.flow, State(row.state), row.reason, row.source, row.node, row.accepted_ms,
        row.settled_ms, path.stem,
    )  # fmt: skip
