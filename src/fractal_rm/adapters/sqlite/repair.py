"""Make a journal again of what can be read of a damaged one.

The new file is made beside it, has what the log holds, too, and takes its place when it is whole;
the damaged one and the log are kept under other names. Rows of runs come from their facts, as do
indexes, counts and the tables for lists; the id of a run whose row is lost stands in the index of
ids.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from fractal_rm.adapters.lock import FileLock, Held
from fractal_rm.adapters.log.blob_folder import FolderBlobs, blob_folder
from fractal_rm.adapters.log.blobs import BlobFiles
from fractal_rm.adapters.log.history import Projected
from fractal_rm.adapters.log.stories import Story
from fractal_rm.adapters.log.timed import Timed
from fractal_rm.adapters.sqlite import statements
from fractal_rm.adapters.sqlite.aside import beside, bring_in_wal, free_name, put_in_place
from fractal_rm.adapters.sqlite.causes import damaged, unusable
from fractal_rm.adapters.sqlite.chain import encode_page, link, start_of, timed_that_hold
from fractal_rm.adapters.sqlite.faults import Faults
from fractal_rm.adapters.sqlite.many import many_at_once
from fractal_rm.adapters.sqlite.migrations import create, show_as_now
from fractal_rm.adapters.sqlite.prepare import PAGE_BYTES, check_files, format_of
from fractal_rm.adapters.sqlite.repair_blobs import (
    keep_aside,
    refs_in_page,
    with_what_is_there,
)
from fractal_rm.adapters.sqlite.repair_log import LogRepair
from fractal_rm.adapters.sqlite.rows import blob_rows, bytes_of
from fractal_rm.adapters.sqlite.salvage import Salvage
from fractal_rm.adapters.sqlite.schema import LOSSES, PAGE_BITS, SUMMED_SINCE
from fractal_rm.adapters.sqlite.spans import widen
from fractal_rm.adapters.sqlite.sums import add_row_sum, decode_any, holds, summed
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import Settled, parent_of
from fractal_rm.domain.flow import Flow, version_of
from fractal_rm.domain.journal_errors import JournalInUse
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import TROUBLE, State
from fractal_rm.domain.transitions import ImpossibleFact

LOST = "its facts were damaged: what it has done is not known"
Row = tuple[Any, ...]


class RepairReport(msgspec.Struct):
    """What was made again, and what is gone. ``kept_as`` is the damaged file.

    ``log_kept_as`` is the log, which begins anew; None: there was none. ``blobs_kept_as`` has what
    no run that is left refers to.
    """

    journal: str
    kept_as: str
    runs: int = 0
    rebuilt: int = 0
    gone: list[str] = []
    log_kept_as: str | None = None
    blobs_kept_as: str | None = None


def repair(path: Path) -> RepairReport:
    """Repair a journal that no process holds, with its log.

    Raises JournalInUse; JournalDamaged where nothing of it can be read; JournalError.
    """
    try:
        lock = FileLock(path.with_suffix(".lock"))
    except Held as held:
        raise JournalInUse(f"{path} is in use by process {held.by}; stop that one first") from None
    try:
        check_files(path)
        return _repair(path)
    except (OSError, sqlite3.Error, UnicodeDecodeError) as error:
        raise unusable(path, error) from error
    finally:
        lock.release()


def _repair(path: Path) -> RepairReport:
    real = path.resolve()
    new = real.with_name(f"{real.name}.new")
    for file in (new, *beside(new)):
        file.unlink(missing_ok=True)
    aside = free_name(real)
    report = RepairReport(path.stem, str(aside))
    with (
        closing(sqlite3.connect(real)) as old,
        closing(sqlite3.connect(new, isolation_level=None)) as made,
    ):
        old.text_factory = decode_any
        add_row_sum(old)
        add_row_sum(made)
        found = format_of(old, path)
        show_as_now(old, found)
        made.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        create(made)
        made.execute("BEGIN")
        making = _Making(old, made, report, found, FolderBlobs(blob_folder(path)))
        making.make()
        made.execute("COMMIT")
        made.execute("PRAGMA journal_mode = WAL")
        log = LogRepair.of(path, making.projected)
        if log is not None:
            report.gone += log.bring_into(new)
            report.log_kept_as = str(log.kept_as)
            (report.runs,) = made.execute("SELECT count(*) FROM runs").fetchone()
        if report.runs == 0 and report.gone:
            raise damaged(path, "has no run that can be read")
        report.blobs_kept_as = keep_aside(path, made)
        made.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        bring_in_wal(old)
    if log is not None:
        log.copy_aside()
    put_in_place(real, new, aside)
    if log is not None:
        log.move_aside()
    return report


class _Making:
    """Fills a new history from an old one."""

    def __init__(
        self, old: sqlite3.Connection, made: sqlite3.Connection, report: RepairReport, found: int,
        blobs: BlobFiles,
    ) -> None:  # fmt: skip
        self._old = old
        self._made = made
        self._report = report
        self._format = found
        self._blobs = blobs
        self._faults = Faults(made)
        self._counts = {"accepted": 0, "settled": 0, "trouble_bytes": 0, "blob_bytes": 0}
        self.projected: Projected | None = Projected(0, 0)  # None: how far it was is gone

    def make(self) -> None:
        """Copy what holds, and make again what can be. Raises sqlite3.Error of the new one."""
        for version, body in self._rows("flow definitions", "SELECT version, body FROM flows"):
            if isinstance(body, bytes) and version_of(body) == version:
                self._made.execute(statements.INSERT_FLOW, (version, body))
            else:
                self._gone(f"the definition of flow version {version!r}")
        salvage = Salvage(self._old)
        rows = {row[0]: row for row in salvage.rows_oldest_first()}
        ids = self._ids()
        for no in sorted(rows.keys() | ids.keys()):
            self._run(salvage, no, rows.get(no), ids.get(no))
        for first, last in salvage.lost:
            missing = [no for no in range(first, last + 1) if no not in ids]
            if missing:
                self._gone(f"rows of runs no. {missing[0]} to {missing[-1]}, where there were any")
        self._made.execute(statements.DROP_FAULTS)
        self._keys()
        self._notes()

    def _ids(self) -> dict[int, str]:
        """The ids of runs by number, as far as their index can be read."""
        found = self._rows("the index of ids", "SELECT no, id FROM runs ORDER BY id", tell=False)
        return dict(found)

    def _run(self, salvage: Salvage, no: int, row: Row | None, indexed: str | None) -> None:
        whole = row if row is not None and holds(row) else None
        run_id = whole[1] if whole else indexed
        if run_id is None:
            self._gone(f"run no. {no}, whose id is not known")
            return
        pages = salvage.pages_of(no)
        count, last = (whole[12], whole[13]) if whole else _tail(pages)
        if whole and not count:  # its facts were dropped for their age
            self._put(whole[:-1])
            return
        facts, broken = timed_that_hold(run_id, [page[1:] for page in pages], count, last)
        facts, lost = with_what_is_there(self._blobs, facts)
        for each in lost:
            self._gone(f"of run {run_id}, {each}")
        if broken is None and facts:
            try:
                run = fold(Run(run_id, Flow(whole[2] if whole else _flow_of(facts) or ""), 0),
                           [each.fact for each in facts])  # fmt: skip
            except ImpossibleFact as error:
                broken = str(error)
            else:
                if not run.state.final and not self._has_flow(facts):
                    self._without_facts(no, run_id, whole, facts, "its flow is gone")
                    return
                if not run.state.final and lost:
                    self._without_facts(no, run_id, whole, facts, lost[0])
                    return
                self._report.rebuilt += whole is None
                self._put_run(no, run, facts, whole, _page_of(no, run_id, facts) if lost else pages)
                return
        self._without_facts(no, run_id, whole, facts, broken or "it has no facts")

    def _row_of(
        self, no: int, run: Run, facts: list[Timed], count: int, last: int, whole: Row | None
    ) -> Row:
        """The values of a row, of facts; what these do not say is taken from the row that was."""
        at_ms, first = facts[0].at_ms, facts[0].fact
        settled_ms = facts[-1].at_ms if run.state.final else None
        flow = getattr(first, "flow", None)
        return (
            no, run.id, flow, run.state.text, run.reason, getattr(first, "source", ""), run.node,
            at_ms, settled_ms, whole[9] if whole else 0, parent_of(first),
            self._fault(no, run, flow), count, last, whole[14] if whole else 0,
        )  # fmt: skip

    def _fault(self, no: int, run: Run, flow: str | None) -> int | None:
        if run.state not in TROUBLE:
            return None
        story = Story(run.id)
        story.stand_as(run)
        story.flow = flow
        return self._faults.number(self._made, story, no, {})

    def _without_facts(
        self, no: int, run_id: str, whole: Row | None, facts: list[Timed], why: str
    ) -> None:
        """An ended run keeps its row; one that is open ends as unknown, and is not repeated."""
        ended = whole is not None and whole[8] is not None
        self._gone(f"facts of run {run_id} ({why})" + ("" if ended else "; it ends as unknown"))
        if whole is not None and ended:
            fault = None
            if whole[3] in {state.value for state in TROUBLE}:
                story = Story(run_id, state=State(whole[3]), reason=whole[4], flow=whole[2])
                fault = self._faults.number(self._made, story, no, {})
            self._put((*whole[:11], fault, 0, 0, whole[14]))
            return
        if not facts:
            self._as_unknown(no, whole)
            return
        run = Run(run_id, Flow(_flow_of(facts) or ""), facts[0].at_ms)
        kept: list[Timed] = []
        for each in facts:
            try:
                run.apply(each.fact)
            except ImpossibleFact:
                break
            kept.append(each)
        if not kept:
            self._as_unknown(no, whole)
            return
        if not run.state.final:
            end = Settled(State.UNKNOWN, LOST, Cause.UNREADABLE)
            run.apply(end)
            kept.append(Timed(kept[-1].at_ms, end))
        self._put_run(no, run, kept, whole, _page_of(no, run_id, kept))

    def _as_unknown(self, no: int, whole: Row | None) -> None:
        """A run of which there is nothing but its row."""
        if whole is None:
            return
        story = Story(whole[1], state=State.UNKNOWN, reason=LOST, flow=whole[2])
        fault = self._faults.number(self._made, story, no, {})
        ended = (State.UNKNOWN.text, LOST, whole[5], whole[6], whole[7], whole[7])
        self._put((*whole[:3], *ended, 0, whole[10], fault, 0, 0, whole[14]))

    def _has_flow(self, facts: list[Timed]) -> bool:
        version = getattr(facts[0].fact, "version", None)
        return self._made.execute(statements.FLOW_BODY, (version,)).fetchone() is not None

    def _put_run(
        self, no: int, run: Run, facts: list[Timed], whole: Row | None, pages: list[Row]
    ) -> None:
        """A run with its facts, which stand in these pages."""
        refs = [ref for page in pages for ref in refs_in_page(page[2])]
        many_at_once(self._made, statements.INSERT_BLOBS, blob_rows(no, refs))
        self._counts["blob_bytes"] += sum(ref.size for ref in refs)
        rows = [(no << PAGE_BITS | n, body, stored) for no, n, body, stored in pages]
        many_at_once(self._made, statements.INSERT_PAGES, rows)
        self._put(self._row_of(no, run, facts, *_tail(pages), whole))
        if run.state in TROUBLE:
            self._counts["trouble_bytes"] += bytes_of(self._made, [no])

    def _put(self, values: Row) -> None:
        made = self._made
        many_at_once(made, statements.INSERT_FAULTS, self._faults.new_rows)
        self._faults.kept()
        many_at_once(made, statements.INSERT_RUNS, [summed(values)])
        ended = values[8] is not None
        if ended:
            widen(made, [(values[0], values[2], values[3], values[7], values[1])])
        self._report.runs += 1
        self._counts["accepted"] += 1
        self._counts["settled"] += ended

    def _keys(self) -> None:
        columns = "*" if self._format >= SUMMED_SINCE else "*, row_sum(key, run, digest, until_ms)"
        known = {no for (no,) in self._made.execute("SELECT no FROM runs")}
        for row in self._rows("trigger ids", f"SELECT {columns} FROM keys"):  # noqa: S608
            if holds(row) and row[1] in known:
                many_at_once(self._made, statements.INSERT_KEYS, [row])
            else:
                self._gone(f"trigger id {row[0]!r}: one that comes again is another run")

    def _notes(self) -> None:
        notes = {row[0]: row for row in self._rows("counts", "SELECT * FROM meta")}
        held = {name: row[1] for name, row in notes.items() if holds(row)}
        self._counts |= {name: held[name] for name in LOSSES if name in held}
        if self._format >= SUMMED_SINCE:
            names = ("projected", "ended_until")
            is_known = all(name in held for name in names)
            self.projected = Projected(*(held[name] for name in names)) if is_known else None
        for name, value in self._counts.items():
            self._made.execute(statements.NOTE, {"name": name, "value": value})
        self._made.execute(statements.NOTE, {"name": "clean", "value": 0})

    def _rows(self, what: str, statement: str, *, tell: bool = True) -> Iterator[Row]:
        """Rows as far as they can be read."""
        try:
            rows = self._old.execute(statement)
            while (row := rows.fetchone()) is not None:
                yield row
        except sqlite3.DatabaseError as error:
            if tell:
                self._gone(f"{what}, from some place on ({error})")

    def _gone(self, what: str) -> None:
        self._report.gone.append(what.encode("utf-8", "replace").decode())


def _tail(pages: list[Row]) -> tuple[int, int]:
    """How many pages there are, and the last one's checksum, where no row says it."""
    return (len(pages), pages[-1][3]) if pages else (0, 0)


def _page_of(no: int, run_id: str, facts: list[Timed]) -> list[Row]:
    """Facts of a run as one page."""
    body = encode_page([each.said for each in facts])
    return [(no, 1, body, link(start_of(run_id), 1, body))]


def _flow_of(facts: list[Timed]) -> str | None:
    return getattr(facts[0].fact, "flow", None)
