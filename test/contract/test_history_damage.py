"""Damaged histories: flipped bits and zeroed pages are found and repaired."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from disk_journals import sqlite_journal
from test_history_kills import write_runs

from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.adapters.sqlite.format.prepare import PAGE_BYTES
from fractal_rm.adapters.sqlite.repair import repair
from fractal_rm.domain.facts import Settled
from fractal_rm.domain.journal_errors import (
    JournalBlocked,
    JournalDamaged,
    JournalError,
    JournalInUse,
)
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import begun, entry, write

ROW_TABLES = ("runs", "pages", "keys", "flows", "meta", "faults", "spans")


def values_of(path: Path) -> str | None:
    """A text with all values of all tables and their types. None if they cannot be read."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            db.text_factory = bytes
            return repr([
                db.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall()
                for name in (*ROW_TABLES, "sqlite_master")
            ])  # fmt: skip
    except (sqlite3.Error, UnicodeDecodeError):  # the message of SQLite may have damaged text
        return None


async def test_a_flipped_bit_in_any_row_is_reported(tmp_path):
    await write_runs(tmp_path)
    path = tmp_path / "up.journal"
    good, values = path.read_bytes(), values_of(path)
    assert check_journal(path).problems == []
    unreported_offsets, changed_files = [], 0
    for at in range(0, len(good), 41):
        flipped = bytearray(good)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        if values_of(path) == values:
            continue  # the bit is not in a row
        changed_files += 1
        try:
            problems = check_journal(path).problems
        except JournalError:
            continue
        if not problems:
            unreported_offsets.append(at)
    assert changed_files > 100
    assert unreported_offsets == []


RUNS = 150


class FastClock:
    """A clock that advances fast, so that the scrub may read the whole history at once."""

    now_s = 0.0

    def __call__(self) -> float:
        FastClock.now_s += 10_000.0
        return FastClock.now_s


def scrub_all(journal) -> str | None:
    """Let the scrub read the whole history. Returns the damage that it has found, or None."""
    scrubber = journal.history.scrubber
    scrubber.monotonic_s = FastClock()
    rounds = scrubber.rounds
    while scrubber.rounds < rounds + 1:
        scrubber.read_more()
    return journal.damage


def read_one_at_a_time(scrubber) -> None:
    """Let the thread of the history and the test not scrub at the same time.

    `use_journal` may leave an update running, which scrubs, too.
    """
    lock, read_more = threading.Lock(), scrubber.read_more

    def read_more_alone() -> None:
        with lock:
            read_more()

    scrubber.read_more = read_more_alone


async def write_a_small_history(folder: Path) -> None:
    """Write a history with RUNS runs. The WAL file is empty afterwards."""
    await write_runs(folder)
    journal = sqlite_journal(folder)
    await journal.open()
    for n in range(RUNS - 5):
        await journal.accept(entry(f"some-{n:03}", key=f"some-key-{n}"))
        await write(journal, begun(f"some-{n:03}"), Settled(State.SUCCEEDED))
    await journal.close(clean=True)
    with closing(sqlite3.connect(folder / "up.journal")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


async def use_journal(journal, *, has_run: bool = True) -> None:
    """Accept triggers with and without ids, and update the history. End run-0 if ``has_run``.

    Ignores the errors of a blocked journal.
    """
    for trigger in (entry("new", key="new"), entry("other"), entry("again", key="some-key-7")):
        with contextlib.suppress(JournalBlocked):
            await journal.accept(trigger)
        while journal.blocked is not None:
            await asyncio.sleep(0.01)
    if has_run:
        _ = write(journal, begun("run-0"), Settled(State.SUCCEEDED))
    update = asyncio.ensure_future(journal.update_history())
    await asyncio.wait([update], timeout=0.3)


async def test_any_zeroed_page_is_reported_and_the_journal_can_still_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr("fractal_rm.adapters.log.writer.RETRY_BLOCKED_S", 0.01)
    monkeypatch.setattr("fractal_rm.adapters.log.projector.RETRY_BLOCKED_S", 0.01)
    await write_a_small_history(tmp_path / "good")
    good = (tmp_path / "good" / "up.journal").read_bytes()
    values = values_of(tmp_path / "good" / "up.journal")
    pages, reported = len(good) // PAGE_BYTES, 0
    for page in range(pages):
        folder = tmp_path / str(page)
        shutil.copytree(tmp_path / "good", folder)
        path = folder / "up.journal"
        at = page * PAGE_BYTES
        path.write_bytes(good[:at] + bytes(PAGE_BYTES) + good[at + PAGE_BYTES :])
        harmless = values_of(path) == values
        listed = SqliteHistory(folder).page(limit=500)
        if not harmless and not listed.unreadable:
            assert len(listed.runs) == RUNS
        lost_errors = []
        journal = sqlite_journal(folder, on_lost=lost_errors.append)
        try:
            await journal.open()
        except JournalDamaged:
            continue
        read_one_at_a_time(journal.history.scrubber)
        damage = scrub_all(journal)
        await use_journal(journal)
        damage = scrub_all(journal) or damage
        await journal.close(clean=True)
        assert lost_errors == []
        if damage is None:
            assert harmless
            assert check_journal(path).problems == []
        else:
            reported += 1
    assert pages > 25
    assert reported > pages // 2


async def test_a_repair_keeps_readable_data_and_reports_lost_data(tmp_path):
    await write_a_small_history(tmp_path / "good")
    good = (tmp_path / "good" / "up.journal").read_bytes()
    runs_before = {run.id: run for run in SqliteHistory(tmp_path / "good").runs(limit=500)}
    repaired, complete = 0, 0
    for page in range(1, len(good) // PAGE_BYTES):
        folder = tmp_path / str(page)
        shutil.copytree(tmp_path / "good", folder)
        path = folder / "up.journal"
        at = page * PAGE_BYTES
        damaged = good[:at] + bytes(PAGE_BYTES) + good[at + PAGE_BYTES :]
        path.write_bytes(damaged)
        if not check_journal(path).problems:
            continue
        try:
            report = repair(path)
        except JournalDamaged:
            assert path.read_bytes() == damaged
            continue
        repaired += 1
        assert Path(report.kept_as).read_bytes() == damaged
        assert check_journal(path).problems == []
        runs_after = {run.id: run for run in SqliteHistory(folder).runs(limit=500)}
        assert len(runs_after) == report.runs
        changed = [run_id for run_id, run in runs_after.items() if run != runs_before[run_id]]
        if changed or len(runs_after) < len(runs_before):
            assert report.lost
        assert {runs_after[run_id].state for run_id in changed} <= {State.UNKNOWN}
        complete += runs_after == runs_before and not report.lost
        lost_errors = []
        journal = sqlite_journal(folder, on_lost=lost_errors.append)
        open_ids = {run.id for run in (await journal.open()).runs}
        await use_journal(journal, has_run="run-0" in open_ids)
        await journal.close(clean=True)
        assert lost_errors == []
        assert check_journal(path).problems == []
    assert repaired > 20
    assert complete > 5


async def test_a_repair_rebuilds_an_invalid_row_from_the_facts_and_the_index_of_ids(tmp_path):
    await write_runs(tmp_path)
    path = tmp_path / "up.journal"
    page_before = SqliteHistory(tmp_path).page()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE runs SET reason = 'another', accepted_ms = 7, flow = 'x', state = 'y'")
    report = repair(path)
    assert (report.runs, report.rebuilt, report.lost) == (5, 5, [])
    assert SqliteHistory(tmp_path).page() == page_before


async def test_a_journal_in_use_is_not_repaired(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    with pytest.raises(JournalInUse, match=f"in use by process {os.getpid()}"):
        await asyncio.to_thread(repair, tmp_path / "up.journal")
    await journal.close(clean=True)
