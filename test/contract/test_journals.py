"""The conformance suite for both journals, then what only the journal on a disk can do."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from fractal_rm.adapters.journal_files import open_journal
from fractal_rm.adapters.lock import FileLock, LockHeld
from fractal_rm.adapters.log import LogJournal
from fractal_rm.adapters.log.blob_folder import FolderBlobs
from fractal_rm.adapters.log.disk import FolderDisk
from fractal_rm.adapters.memory import MemoryJournal
from fractal_rm.adapters.memory.blobs import MemoryBlobs
from fractal_rm.adapters.memory.disk import MemoryDisk
from fractal_rm.adapters.memory.journal import JournalContent
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.adapters.sqlite.format.page_chain import chain_start, page_sum
from fractal_rm.adapters.sqlite.format.schema import FORMAT, OLDEST
from fractal_rm.adapters.sqlite.read.snapshot import journals_in
from fractal_rm.adapters.sqlite.write.limits import HistoryLimits
from fractal_rm.domain.facts import (
    Accepted,
    Dead,
    Finished,
    Parked,
    Placed,
    RequestStarted,
    Settled,
    StepFailed,
)
from fractal_rm.domain.flow import flow_version
from fractal_rm.domain.journal_errors import (
    JournalDamaged,
    JournalError,
    JournalFull,
    JournalInUse,
    JournalLocked,
    JournalLost,
    JournalMoved,
    JournalReadOnly,
    JournalTooNew,
    JournalTooOld,
    JournalUnreadable,
)
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import (
    FLOW,
    JournalConformance,
    begun,
    entry,
    write,
    write_behind,
)
from old_journals import as_written_by

DAY_S, GIB = 86_400, 1 << 30


def lost(error: JournalError) -> None:
    raise AssertionError(error)


class ManualRetentionClock:
    """A retention clock that tests set by hand."""

    ms = 1_000

    def __call__(self) -> int:
        return self.ms


def sqlite_journal(
    folder: Path,
    name: str = "up",
    keep=(7 * DAY_S, GIB),
    on_lost=lost,
    disk=None,
    failed=None,
    blobs=None,
    retention_ms=None,
) -> LogJournal:
    """A journal with small segments that purges after every batch."""
    path = folder / f"{name}.journal"
    return open_journal(
        path, keep=lambda: HistoryLimits(*keep, *(failed or keep)), on_lost=on_lost,
        retention_ms=retention_ms or ManualRetentionClock(),
        purge_every_s=0, segment_bytes=64 * 1024, most_bytes=4 << 20, disk=disk or SmallDisk,
        blobs=blobs or SmallBlobs,
    )  # fmt: skip


class SmallDisk(FolderDisk):
    """A folder on a disk that can be full."""

    full = False

    def create(self, name, size):
        if SmallDisk.full:
            raise OSError(errno.ENOSPC, "no room")
        super().create(name, size)


class SmallBlobs(FolderBlobs):
    """Blobs on a disk that can be full."""

    def write(self, name, data):
        if SmallDisk.full:
            raise OSError(errno.ENOSPC, "no room")
        super().write(name, data)


class TestMemoryJournal(JournalConformance):
    @pytest.fixture(autouse=True)
    def _disk(self):
        self.disk = JournalContent()
        self.disk.others = [JournalContent()]

    def new(self):
        return MemoryJournal(self.disk)

    def beside(self):
        return MemoryJournal(self.disk.others[0])

    def crash(self, journal):
        journal.crash()

    def fill(self, journal, *, full):
        journal.full = full

    def move(self, journal, *, away):
        journal.away = away


class TestLogJournal(JournalConformance):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = tmp_path

    def new(self):
        return sqlite_journal(self.folder)

    def beside(self):
        return sqlite_journal(self.folder, "mqtt")

    def crash(self, journal):
        """Close files and release locks without a flush, as kill -9 does."""
        journal.crash()

    def fill(self, journal, *, full):
        SmallDisk.full = full

    def move(self, journal, *, away):
        aside = self.folder.with_name("aside")
        self.folder.rename(aside) if away else aside.rename(self.folder)


class TestLogJournalWithoutPower(JournalConformance):
    """Each crash is a power loss for the log: it keeps synced sectors and some others.

    The history is on a disk that keeps everything, as it only has what was synced in the log.
    """

    @pytest.fixture(autouse=True)
    def _disk(self, tmp_path):
        self.folder, self.disk, self.blobs = tmp_path, MemoryDisk(), MemoryBlobs()
        self.chance = random.Random(1)

    def new(self):
        return sqlite_journal(self.folder, disk=lambda _: self.disk, blobs=lambda _: self.blobs)

    def beside(self):
        """Its log is on a disk that keeps everything."""
        return sqlite_journal(self.folder, "mqtt")

    def crash(self, journal):
        journal.crash()
        self.disk.lose_power(self.chance)
        self.blobs.lose_power(self.chance)

    def fill(self, journal, *, full):
        self.disk.full = self.blobs.full = full

    def move(self, journal, *, away):
        self.disk.away = self.blobs.away = away


class WatchedConnection(sqlite3.Connection):
    """Calls ``before`` with each statement, before it is executed."""

    before = staticmethod(lambda _: None)

    def execute(self, statement, *values):
        self.before(statement)
        return super().execute(statement, *values)

    def executemany(self, statement, *values):
        self.before(statement)
        return super().executemany(statement, *values)


@pytest.fixture
def connections(monkeypatch) -> list[WatchedConnection]:
    """The connections that were opened: of a journal, first the one that writes, then a reader."""
    opened, connect = [], sqlite3.connect

    def watched(*args, **options):
        opened.append(connect(*args, factory=WatchedConnection, **options))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", watched)
    return opened


# --- damaged journals ----------------------------------------------------------------------


async def write_some(folder: Path, *, runs: int = 5) -> None:
    journal = sqlite_journal(folder)
    await journal.open()
    for n in range(runs):
        await journal.accept(entry(f"run-{n}", key=f"key-{n}"))
        one = begun(f"run-{n}")
        await write(journal, one, Placed(None, "placed by the balancer"))
        await write(journal, one, Finished(1, 200, 0.1, msgspec.Raw(b'"r"')))
    await journal.close(clean=True)


async def opened(folder: Path):
    journal = sqlite_journal(folder)
    try:
        return await journal.open()
    finally:
        await journal.close(clean=True)


async def test_a_journal_with_a_flipped_byte_is_never_read_as_valid(tmp_path):
    await write_some(tmp_path)
    path = tmp_path / "up.journal"
    good = path.read_bytes()
    expected = msgspec.json.encode((await opened(tmp_path)).runs)
    good = path.read_bytes()
    silently_wrong = []
    for at in range(0, len(good), 61):
        flipped = bytearray(good)
        flipped[at] ^= 0x20
        path.write_bytes(flipped)
        for leftover in ("up.journal-wal", "up.journal-shm"):
            (tmp_path / leftover).unlink(missing_ok=True)
        try:
            found = await opened(tmp_path)
        except JournalError:
            continue
        if msgspec.json.encode(found.runs) != expected:
            silently_wrong.append(at)
    assert silently_wrong == []


async def test_a_truncated_journal_is_refused(tmp_path):
    await write_some(tmp_path, runs=50)
    path = tmp_path / "up.journal"
    good = path.read_bytes()
    for length in range(100, len(good) - 1, 4_096):
        path.write_bytes(good[:length])
        with pytest.raises(JournalDamaged):
            await opened(tmp_path)


async def test_a_missing_page_is_named(tmp_path):
    await write_some(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("DELETE FROM pages WHERE run = 3")
    with pytest.raises(JournalDamaged, match="run run-2 has 0 of 1 pages"):
        await opened(tmp_path)
    assert check_journal(tmp_path / "up.journal").problems == ["run run-2 has 0 of 1 pages"]


async def test_a_missing_run_is_noticed(tmp_path):
    await write_some(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("DELETE FROM runs WHERE id = 'run-4'")
    with pytest.raises(JournalDamaged, match="should hold 5 unfinished runs and holds 4"):
        await opened(tmp_path)


async def test_a_row_that_contradicts_its_facts_is_named(tmp_path):
    await write_some(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("UPDATE runs SET reason = 'it fell asleep' WHERE id = 'run-4'")
    expected = ["the row of run run-4 does not match its facts",
                "the row of run run-4 (no. 5) does not match its checksum"]  # fmt: skip
    assert check_journal(tmp_path / "up.journal").problems == expected


async def test_a_newer_journal_is_refused_and_not_changed(tmp_path):
    await write_some(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    with pytest.raises(JournalTooNew, match="newer release"):
        await opened(tmp_path)
    with pytest.raises(JournalTooNew, match="newer release"):
        check_journal(tmp_path / "up.journal")


async def test_a_journal_from_before_the_first_release_is_refused_as_too_old(tmp_path):
    await write_some(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("PRAGMA user_version = 1")
    with pytest.raises(JournalTooOld, match="finish its runs with the program that wrote it"):
        await opened(tmp_path)
    with pytest.raises(JournalTooOld, match="before the first release"):
        check_journal(tmp_path / "up.journal")


async def test_a_database_of_another_program_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("CREATE TABLE t (a)")
    with pytest.raises(JournalDamaged, match="another program"):
        await opened(tmp_path)


async def test_a_file_that_is_not_a_database_is_refused(tmp_path):
    (tmp_path / "up.journal").write_bytes(b"hello, world. " * 100)
    with pytest.raises(JournalDamaged, match="cannot be read"):
        await opened(tmp_path)


async def test_an_empty_journal_with_runs_in_its_wal_is_refused(tmp_path):
    await write_some(tmp_path)
    (tmp_path / "up.journal").write_bytes(b"")
    (tmp_path / "up.journal-wal").write_bytes(b"runs")
    with pytest.raises(JournalDamaged, match="while its -wal file has runs"):
        await opened(tmp_path)
    assert (tmp_path / "up.journal-wal").read_bytes() == b"runs"


@pytest.mark.parametrize("change", ["accepted_ms = 'then'", "reason = x'ff'", "settled_ms = 1e999"])
async def test_a_row_with_a_value_of_another_type_is_named(tmp_path, change):
    await write_some(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute(f"UPDATE runs SET {change} WHERE id = 'run-4'")
    page = SqliteHistory(tmp_path).page()
    assert [run.id for run in page.runs] == ["run-3", "run-2", "run-1", "run-0"]
    assert page.unreadable == ["up: the row of run run-4 does not match its checksum"]
    problems = check_journal(tmp_path / "up.journal").problems
    assert "the row of run run-4 (no. 5) does not match its checksum" in problems


async def test_a_run_whose_facts_cannot_be_applied_is_named(tmp_path):
    await write_some(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        (body,) = db.execute("SELECT body FROM pages WHERE run = 4 AND n = 1").fetchone()
        twice = msgspec.json.encode(2 * msgspec.json.decode(body))
        last = page_sum(chain_start("run-3"), 1, twice)
        db.execute("DELETE FROM pages WHERE run = 4 AND n > 1")
        db.execute("UPDATE pages SET body = ?, sum = ? WHERE run = 4", (twice, last))
        db.execute("UPDATE runs SET pages = 1, chain = ? WHERE no = 4", (last,))
    problems = check_journal(tmp_path / "up.journal").problems
    assert any(line.startswith("the facts of run run-3 make no run: Accepted") for line in problems)


async def test_a_page_with_a_value_of_another_type_is_named(tmp_path):
    await write_some(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("UPDATE pages SET body = 5 WHERE run = 4")
    detail = SqliteHistory(tmp_path).run("run-3")
    assert detail.facts == []
    assert "page 1 of run run-3 cannot be read" in detail.unreadable


async def test_a_row_of_another_flow_than_its_facts_is_named(tmp_path):
    await write_some(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("UPDATE runs SET flow = 'other' WHERE id = 'run-4'")
    problems = check_journal(tmp_path / "up.journal").problems
    assert problems == ["the row of run run-4 does not match its facts",
                        "the row of run run-4 (no. 5) does not match its checksum"]  # fmt: skip


async def test_a_page_that_is_not_json_does_not_change_the_other_counts(tmp_path):
    await write_some(tmp_path)
    before = SqliteHistory(tmp_path).flow_counts()
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("UPDATE pages SET body = CAST('\"maybe_twice\":true' AS BLOB) WHERE run = 4")
    (account,), (was,) = SqliteHistory(tmp_path).flow_counts(), before
    assert (account.received, account.states) == (was.received - 1, was.states)


def test_an_unreadable_state_folder_is_not_taken_for_an_empty_one(tmp_path):
    assert SqliteHistory(tmp_path / "not yet").runs() == []
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "unmounted").symlink_to("nowhere")
    for name in ("loop", "unmounted"):
        with pytest.raises(JournalUnreadable, match="cannot be read"):
            SqliteHistory(tmp_path / name).flow_counts()


async def test_an_unreadable_journal_does_not_prevent_the_check_of_others(tmp_path):
    await write_some(tmp_path)
    (tmp_path / "a.journal").mkdir()
    (tmp_path / "b.journal").symlink_to("b.journal")
    (tmp_path / "c.journal").symlink_to("disk that is not mounted")
    *bad, good = map(check_journal, journals_in(tmp_path))
    reasons = ("Is a directory", "symbolic links", "No such file")
    assert all(why in report.problems[0] for report, why in zip(bad, reasons, strict=True))
    assert good.problems == []


def test_a_fifo_in_place_of_a_journal_does_not_block_a_list(tmp_path):
    os.mkfifo(tmp_path / "other.journal")
    (unreadable,) = SqliteHistory(tmp_path).page().unreadable
    assert "it is a FIFO" in unreadable


@pytest.mark.parametrize(("make", "what"), [(os.mkfifo, "it is a FIFO"), (os.mkdir, "a directory")])
async def test_a_start_names_a_file_of_a_journal_that_is_not_a_regular_file(tmp_path, make, what):
    make(tmp_path / "up.journal-wal")
    with pytest.raises(JournalDamaged, match=f"up.journal-wal: .*{what}"):
        await opened(tmp_path)


async def test_the_lock_file_is_checked_during_a_sync(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    syncing, looked = threading.Event(), threading.Event()
    sync = journal.log.sync
    journal.log.sync = lambda: (syncing.set(), looked.wait(), sync())[2]
    written = journal.accept(entry("A"))
    await asyncio.to_thread(syncing.wait)
    (tmp_path / "up.lock").unlink()
    journal.check()
    assert (tmp_path / "up.lock").exists()
    looked.set()
    assert await written is None
    await journal.close(clean=True)


async def test_a_journal_in_use_by_another_process_names_it(tmp_path):
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from fractal_rm.adapters.lock import FileLock\n"
        "held = FileLock(Path(sys.argv[1]).with_suffix('.lock'))\n"
        "print('taken', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "up.journal")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"taken\n"
        with pytest.raises(JournalInUse, match=f"in use by process {other.pid}"):
            await opened(tmp_path)
        other.stdin.close()


async def test_a_start_waits_for_a_process_that_holds_the_lock_briefly(tmp_path, monkeypatch):
    lock = tmp_path / "up.lock"
    lock.write_text("4711")
    passing = FileLock(lock, passing=True)
    waits, sleep = threading.Event(), time.sleep
    monkeypatch.setattr("fractal_rm.adapters.lock.time.sleep", lambda s: (waits.set(), sleep(s)))
    opening = asyncio.ensure_future(opened(tmp_path))
    await asyncio.to_thread(waits.wait)
    assert not opening.done()
    passing.release()
    assert (await opening).runs == []


def test_a_brief_lock_does_not_change_the_lock_file(tmp_path):
    lock = tmp_path / "up.lock"
    lock.write_text("4711")
    passing = FileLock(lock, passing=True)
    with pytest.raises(LockHeld) as held:
        FileLock(lock)
    assert (held.value.by, held.value.brief) == (str(os.getpid()), True)
    passing.release()
    assert lock.read_text() == "4711"


# --- moved files, full disks, age ---------------------------------------------------------------


def delete_the_journal(folder: Path) -> None:
    (folder / "up.journal").unlink()


def delete_the_wal(folder: Path) -> None:
    (folder / "up.journal-wal").unlink()


def delete_the_index_of_the_wal(folder: Path) -> None:
    (folder / "up.journal-shm").unlink()


def move_and_link(path: Path) -> None:
    """As done to have a file on another disk."""
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def replace_the_journal_by_a_link(folder: Path) -> None:
    move_and_link(folder / "up.journal")


def replace_the_wal_by_a_link(folder: Path) -> None:
    move_and_link(folder / "up.journal-wal")


def rename_the_journal(folder: Path) -> None:
    (folder / "up.journal").rename(folder / "old.journal")


def replace_the_journal_by_a_copy(folder: Path) -> None:
    shutil.copy(folder / "up.journal", folder / "new")
    (folder / "new").replace(folder / "up.journal")


def replace_the_folder_by_a_copy(folder: Path) -> None:
    folder.rename(folder.with_name("before"))
    shutil.copytree(folder.with_name("before"), folder)


@pytest.mark.parametrize(
    "change",
    [delete_the_journal, delete_the_wal, delete_the_index_of_the_wal,
     replace_the_journal_by_a_link, replace_the_wal_by_a_link, rename_the_journal,
     replace_the_journal_by_a_copy, replace_the_folder_by_a_copy],
)  # fmt: skip
async def test_a_journal_whose_files_were_replaced_refuses_runs(tmp_path, change):
    folder = tmp_path / "state"
    journal = sqlite_journal(folder)
    await journal.open()
    await journal.accept(entry("before"))
    change(folder)
    for name in ("after", "again"):
        with pytest.raises(JournalMoved, match="is not the file that is open"):
            await journal.accept(entry(name))
    await journal.close(clean=True)


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
async def test_the_files_of_a_linked_journal_are_at_the_target_of_the_link(tmp_path, end):
    data = tmp_path / "data"
    for folder in (data, tmp_path / "state"):
        folder.mkdir()
    (tmp_path / "state" / "up.journal").symlink_to(data / "real")
    journal = sqlite_journal(tmp_path / "state")
    await journal.open()
    await journal.accept(entry("before"))
    (data / f"real{end}").rename(data / "aside")
    with pytest.raises(JournalMoved):
        await journal.accept(entry("after"))
    (data / "aside").rename(data / f"real{end}")
    await journal.wait_durable()
    await journal.close(clean=True)


async def test_a_link_to_a_journal_that_was_changed_refuses_runs(tmp_path):
    (tmp_path / "up.journal").symlink_to("one")
    journal = sqlite_journal(tmp_path)
    await journal.open()
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").replace(tmp_path / "up.journal")
    with pytest.raises(JournalMoved):
        await journal.accept(entry("after"))
    await journal.close(clean=True)


async def test_a_file_system_that_is_mounted_over_the_journal_refuses_runs(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("only root may mount")
    try:
        with pytest.raises(JournalMoved):
            await journal.accept(entry("over"))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    await journal.wait_durable()
    assert await journal.accept(entry("back")) is None
    await journal.close(clean=True)


async def test_an_ordered_end_saves_runs_whose_wal_was_deleted(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A"))
    delete_the_wal(tmp_path)
    journal.check()
    await journal.close(clean=True)
    assert [run.id for run in (await opened(tmp_path)).runs] == ["A"]


async def moved_during_a_sync(folder: Path):
    """A journal whose folder is renamed while a group is synced.

    Returns it, the new path of the folder, and the run that is being synced.
    """
    journal = sqlite_journal(folder)
    await journal.open()
    aside, sync = folder.with_name("aside"), journal.log.sync

    def sync_and_move():
        end = sync()
        journal.log.sync = sync
        folder.rename(aside)
        return end

    journal.log.sync = sync_and_move
    syncing_run = journal.accept(entry("A"))
    while journal.blocked is None:
        await asyncio.sleep(0)
    return journal, aside, syncing_run


async def test_a_run_that_was_synced_during_a_rename_is_answered_when_the_folder_is_back(tmp_path):
    folder = tmp_path / "state"
    journal, aside, syncing_run = await moved_during_a_sync(folder)
    with pytest.raises(JournalMoved):
        await journal.accept(entry("B"))
    assert not syncing_run.done()
    aside.rename(folder)
    assert await syncing_run is None
    assert await journal.accept(entry("C")) is None
    await journal.close(clean=True)
    assert [run.id for run in (await opened(folder)).runs] == ["A", "C"]


async def test_a_run_that_was_synced_during_a_rename_does_not_block_the_end(tmp_path):
    journal, aside, syncing_run = await moved_during_a_sync(tmp_path / "state")
    await journal.close(clean=True)
    with pytest.raises(JournalMoved):
        await syncing_run
    found = await opened(aside)
    assert ([run.id for run in found.runs], found.clean) == (["A"], False)


async def test_a_deleted_lock_file_is_made_again(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    (tmp_path / "up.lock").unlink()
    journal.check()
    assert await journal.accept(entry("A")) is None
    with pytest.raises(JournalInUse):
        await opened(tmp_path)
    await journal.close(clean=True)


async def test_a_journal_that_a_second_process_has_locked_is_lost_for_the_first(tmp_path):
    losses: list[JournalError] = []
    journal = sqlite_journal(tmp_path, on_lost=losses.append)
    await journal.open()
    (tmp_path / "up.lock").unlink()
    second = sqlite_journal(tmp_path)
    await second.open()
    journal.check()
    assert [type(error) for error in losses] == [JournalLost]
    assert "process" in str(losses[0])
    await second.close(clean=True)
    await journal.close(clean=False)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB; skips the test if none can be made."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_refuses_runs_until_there_is_room(small_disk):
    journal = sqlite_journal(small_disk)
    await journal.open()
    filler = small_disk / "filler"
    await journal.accept(entry("first"))
    accepted = 0
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass
    with pytest.raises(JournalFull, match="disk"):
        while True:
            await journal.accept(entry(f"run-{accepted}"))
            accepted += 1
    durable = write(journal, begun("first"), Settled(State.SUCCEEDED))
    assert isinstance(journal.blocked, JournalFull)
    filler.unlink()
    await durable
    assert await journal.accept(entry("after")) is None
    await journal.close(clean=True)
    found = await opened(small_disk)
    assert len(found.runs) == accepted + 1
    assert "first" not in [run.id for run in found.runs]


async def test_facts_that_waited_for_room_are_written_before_later_ones(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("run"))
    one, SmallDisk.full = begun("run"), True
    result = msgspec.Raw(b'"%b"' % (b"y" * 200_000))
    durable = asyncio.ensure_future(write(journal, one, Finished(1, 200, 0.5, result)))
    while journal.blocked is None:
        await asyncio.sleep(0)
    write_behind(journal, one, RequestStarted(2))
    SmallDisk.full = False
    await durable
    await journal.close(clean=True)
    (found,) = (await opened(tmp_path)).runs
    assert (found.results, found.in_doubt) == ({1: result}, {"2"})


async def test_a_disk_that_is_full_at_start_is_reported(small_disk):
    (small_disk / "filler").write_bytes(b"\0" * (1 << 20))
    with pytest.raises(JournalFull, match="make room"):
        await opened(small_disk)


async def test_a_read_only_folder_names_the_cause_and_the_cure(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(JournalReadOnly, match="write permission"):
        await opened(small_disk)


async def let_a_day_pass(journal: LogJournal, clock: ManualRetentionClock) -> None:
    await journal.update_history()
    clock.ms = DAY_S * 1_000
    for name in ("a day later", "just after"):
        await journal.accept(entry(name, at_ms=DAY_S * 1_000))
        await journal.update_history()


async def test_history_older_than_its_limit_is_purged_except_open_runs(tmp_path):
    clock = ManualRetentionClock()
    journal = sqlite_journal(tmp_path, keep=(60, GIB), retention_ms=clock)
    await journal.open()
    await journal.accept(entry("open", at_ms=0))
    for n in range(20):
        await journal.accept(entry(f"old-{n}", at_ms=1_000))
        await write(journal, begun(f"old-{n}"), Settled(State.SUCCEEDED))
    await let_a_day_pass(journal, clock)
    await journal.close(clean=True)
    history = SqliteHistory(tmp_path)
    assert {run.id for run in history.runs(limit=100)} == {"open", "a day later", "just after"}
    assert check_journal(tmp_path / "up.journal").problems == []


@pytest.mark.parametrize("jumped_ms", [50 * 365 * DAY_S * 1_000, -50 * 365 * DAY_S * 1_000])
async def test_the_age_of_history_does_not_depend_on_the_wall_clock(tmp_path, jumped_ms):
    start_ms, minute_ms = 1_800_000_000_000, 60_000
    clock = ManualRetentionClock()
    journal = sqlite_journal(tmp_path, keep=(600, GIB), retention_ms=clock)
    clock.ms = start_ms
    await journal.open()
    for n in range(20):  # one a minute: before, while, and after the wall clock was wrong
        wall_ms = clock.ms + (jumped_ms if 5 <= n < 10 else 0)
        await journal.accept(entry(f"run-{n:02}", at_ms=wall_ms))
        await write(journal, begun(f"run-{n:02}"), Settled(State.SUCCEEDED), wall_ms)
        await journal.update_history()
        clock.ms += minute_ms
    for n in range(3):
        await journal.accept(entry(f"then-{n}", at_ms=clock.ms))
        await journal.update_history()
    await journal.close(clean=True)
    kept = [run.id for run in SqliteHistory(tmp_path).runs(limit=100)]
    assert sorted(kept) == [f"run-{n}" for n in range(10, 20)] + ["then-0", "then-1", "then-2"]
    assert check_journal(tmp_path / "up.journal").problems == []


async def test_if_no_run_has_ended_the_latest_time_of_a_journal_is_an_acceptance(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("one", at_ms=1_000))
    await journal.accept(entry("other", at_ms=2_000))
    await journal.close(clean=True)
    assert (await opened(tmp_path)).latest_ms == 2_000


@pytest.mark.parametrize("jumped_ms", [0, 50 * 365 * DAY_S * 1_000])
async def test_the_latest_time_of_a_journal_does_not_depend_on_the_wall_clock(tmp_path, jumped_ms):
    clock = ManualRetentionClock()
    journal = sqlite_journal(tmp_path, retention_ms=clock)
    assert (await journal.open()).latest_ms is None
    clock.ms = 1_800_000_000_000
    await journal.accept(entry("open", at_ms=1_799_999_000_000))
    wall_ms = 1_800_000_000_000 + jumped_ms
    await journal.accept(entry("ended", at_ms=wall_ms))
    await write(journal, begun("ended"), Settled(State.SUCCEEDED), wall_ms)
    await journal.close(clean=True)
    assert (await opened(tmp_path)).latest_ms == 1_800_000_000_000


@pytest.mark.parametrize("written_by", range(OLDEST, FORMAT))
async def test_a_journal_of_an_earlier_release_is_read_and_converted(tmp_path, written_by):
    await write_some(tmp_path, runs=3)
    path = tmp_path / "up.journal"
    as_written_by(path, written_by)
    assert [run.id for run in SqliteHistory(tmp_path).runs()] == ["run-2", "run-1", "run-0"]
    assert check_journal(path).problems == []
    journal = sqlite_journal(tmp_path)
    _, one, _ = (await journal.open()).runs
    await write(journal, one, Settled(State.SUCCEEDED))
    prior = await journal.accept(entry("again", key="key-0"))
    assert prior is not None
    assert prior.run_id == "run-0"
    await journal.close(clean=True)
    assert [run.id for run in (await opened(tmp_path)).runs] == ["run-0", "run-2"]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (FORMAT,)
    assert check_journal(path).problems == []


async def test_history_is_purged_although_a_thousand_parked_runs_are_older(tmp_path):
    clock = ManualRetentionClock()
    journal = sqlite_journal(tmp_path, keep=(60, GIB), retention_ms=clock)
    await journal.open()
    names = [f"parked-{n:04}" for n in range(1_000)]
    await asyncio.gather(*(journal.accept(entry(name)) for name in names))
    for name in names:
        write_behind(journal, begun(name), Parked("no peer answers"))
    await journal.accept(entry("old"))
    await write(journal, begun("old"), Settled(State.SUCCEEDED))
    await let_a_day_pass(journal, clock)
    for n in range(4):  # each batch purges a part
        await journal.accept(entry(f"later-{n}", at_ms=DAY_S * 1_000))
        await journal.update_history()
    await journal.close(clean=True)
    history = SqliteHistory(tmp_path)
    assert history.run("old") is None
    assert len(history.runs(state=State.PARKED, limit=2_000)) == 1_000


async def test_a_run_is_found_by_its_key_after_its_facts_were_purged(tmp_path):
    clock = ManualRetentionClock()
    journal = sqlite_journal(tmp_path, keep=(60, GIB), retention_ms=clock)
    await journal.open()
    await journal.accept(entry("old", key="k", at_ms=1_000, window_ms=2 * DAY_S * 1_000))
    await write(journal, begun("old"), Settled(State.SUCCEEDED))
    await let_a_day_pass(journal, clock)
    prior = await journal.find("k", DAY_S * 1_000)
    assert prior is not None
    assert prior.run_id == "old"
    await journal.close(clean=True)
    assert SqliteHistory(tmp_path).run("old").facts == []
    assert check_journal(tmp_path / "up.journal").problems == []


@pytest.fixture
def sqlite_prompt(tmp_path, monkeypatch):
    """A connection that can lock the history; the journal does not wait for it."""
    monkeypatch.setattr("fractal_rm.adapters.sqlite.write.file.WAIT_S", 0)
    with closing(sqlite3.connect(tmp_path / "up.journal", isolation_level=None)) as sqlite_prompt:
        yield sqlite_prompt


async def test_while_the_history_is_locked_runs_are_accepted_and_copied_later(
    tmp_path, sqlite_prompt
):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    sqlite_prompt.execute("BEGIN IMMEDIATE")
    assert await journal.accept(entry("A")) is None
    await write(journal, begun("A"), Settled(State.SUCCEEDED))
    copied = asyncio.ensure_future(journal.update_history())
    assert await journal.accept(entry("B")) is None
    assert [run.id for run in SqliteHistory(tmp_path).runs()] == ["B", "A"]
    assert not copied.done()
    sqlite_prompt.execute("COMMIT")
    await copied
    await journal.close(clean=True)
    assert [run.id for run in (await opened(tmp_path)).runs] == ["B"]


async def test_the_size_of_the_log_that_is_not_in_the_history_is_limited(tmp_path, sqlite_prompt):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    sqlite_prompt.execute("BEGIN IMMEDIATE")
    long = msgspec.Raw(b'"%b"' % (b"x" * 60_000))
    big = (Accepted(FLOW.id, flow_version(FLOW), long, "mqtt"),)
    with pytest.raises(JournalFull, match="not in the history yet"):
        for n in range(100):
            await journal.accept(entry(f"run-{n:02}", facts=big))
    sqlite_prompt.execute("COMMIT")
    while journal.blocked is not None:
        await asyncio.sleep(0.01)
    assert await journal.accept(entry("later")) is None
    await journal.close(clean=True)
    found = [run.id for run in (await opened(tmp_path)).runs]
    assert found == [f"run-{n:02}" for n in range(len(found) - 1)] + ["later"]


async def test_a_journal_closes_while_its_history_is_locked(tmp_path, sqlite_prompt):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A"))
    sqlite_prompt.execute("BEGIN IMMEDIATE")
    await write(journal, begun("A"), Settled(State.SUCCEEDED))
    await journal.close(clean=True)
    sqlite_prompt.execute("COMMIT")
    found = await opened(tmp_path)
    assert (found.runs, found.clean) == ([], False)


async def test_an_idle_journal_closes_while_its_history_is_locked(tmp_path, sqlite_prompt):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    sqlite_prompt.execute("BEGIN IMMEDIATE")
    await journal.close(clean=True)
    assert isinstance(journal.blocked, JournalLocked)  # so the caller can report it
    sqlite_prompt.execute("COMMIT")
    assert not (await opened(tmp_path)).clean


async def test_an_idle_journal_whose_files_are_gone_does_not_close_cleanly(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    (tmp_path / "up.journal").unlink()
    await journal.close(clean=True)
    assert isinstance(journal.blocked, JournalMoved)


async def test_the_name_of_a_folder_does_not_change_the_error(tmp_path):
    for name in ("fullstack", "unlocked"):
        (tmp_path / name / "up.lock").mkdir(parents=True)
        with pytest.raises(JournalReadOnly):
            await sqlite_journal(tmp_path / name).open()


async def test_a_history_that_is_locked_at_start_is_reported(tmp_path, sqlite_prompt):
    await (journal := sqlite_journal(tmp_path)).open()
    await journal.close(clean=True)
    sqlite_prompt.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalLocked, match="another program"):
        await sqlite_journal(tmp_path).open()


async def test_a_briefly_wrong_wall_clock_loses_no_key_and_no_history(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("first", key="k"))
    await write(journal, begun("first"), Settled(State.SUCCEEDED))
    await journal.accept(entry("in ten years", at_ms=3_650 * DAY_S * 1_000))
    for n in range(3):
        await journal.accept(entry(f"after-{n}", at_ms=1_002))
    assert (await journal.find("k", 1_002)).run_id == "first"
    assert (await journal.accept(entry("again", key="k", at_ms=1_002))).run_id == "first"
    await journal.close(clean=True)
    assert len(SqliteHistory(tmp_path).run("first").facts) == 2


async def test_an_error_during_a_purge_ends_the_node(tmp_path):
    lost_with = asyncio.get_running_loop().create_future()
    journal = sqlite_journal(tmp_path, on_lost=lost_with.set_result)
    await journal.open()
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("DROP TABLE keys")  # here only a purge needs this table
    for name in ("first", "second"):
        await journal.accept(entry(name, flow=None, facts=(Dead("malformed", "not JSON"),)))
        copied = asyncio.ensure_future(journal.update_history())
        await asyncio.wait((copied, lost_with), return_when=asyncio.FIRST_COMPLETED)
    assert isinstance(await lost_with, JournalLost)
    copied.cancel()
    journal.crash()


async def test_lists_and_counts_cover_all_journals_of_a_node(tmp_path):
    for name in ("mqtt", "api"):
        journal = sqlite_journal(tmp_path, name)
        await journal.open()
        await journal.accept(entry(f"{name}-1", key=name))
        await journal.accept(entry(f"{name}-2", key=name))
        await write(journal, begun(f"{name}-1"), Settled(State.SUCCEEDED))
        await journal.close(clean=True)
    history = SqliteHistory(tmp_path)
    assert [run.journal for run in history.runs()] == ["mqtt", "api"]
    (account,) = history.flow_counts()
    assert (account.received, account.duplicates) == (2, 2)
    assert dict(account.states) == {State.SUCCEEDED: 2}


async def test_a_list_has_the_current_reason_of_a_run_and_no_earlier_one(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("run"))
    one = begun("run")
    for fact in (
        Placed(None, "placed by the balancer"),
        StepFailed(1, 1, "connection refused"),
        Finished(1, 200, 0.1, msgspec.Raw(b'"r"')),
        Settled(State.SUCCEEDED),
    ):
        await write(journal, one, fact)
    await journal.close(clean=True)
    (listed,) = SqliteHistory(tmp_path).runs()
    assert (listed.state, listed.reason) == (State.SUCCEEDED, "placed by the balancer")


async def test_lists_and_counts_report_damage_anywhere_in_a_journal(tmp_path):
    await write_some(tmp_path, runs=50)
    path = tmp_path / "up.journal"
    good = path.read_bytes()
    history = SqliteHistory(tmp_path)
    refused = 0
    for at in range(0, len(good), 4_096):
        path.write_bytes(good[:at] + b"\xff" * 512 + good[at + 512 :])
        for ask in (history.runs, history.flow_counts, lambda: history.run("run-7")):
            try:
                ask()
            except JournalDamaged:
                refused += 1
        try:
            check_journal(path)
        except JournalDamaged:
            refused += 1
    assert refused > 3


async def test_the_pages_of_a_list_are_consecutive(tmp_path):
    await write_some(tmp_path, runs=7)
    history = SqliteHistory(tmp_path)
    first = history.runs(limit=4)
    second = history.runs(limit=4, before=first[-1].id)
    assert [run.id for run in first + second] == [f"run-{n}" for n in reversed(range(7))]


async def test_a_slow_search_does_not_block_the_event_loop(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    looking, resume = threading.Event(), threading.Event()
    find = journal.history.find
    journal.history.find = lambda asked: (looking.set(), resume.wait(), find(asked))[2]
    accepted = journal.accept(entry("run-1", key="k"))
    await asyncio.to_thread(looking.wait)
    resume.set()
    assert await accepted is None
    await journal.close(clean=True)


async def test_runs_are_accepted_during_a_purge(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("run-1"))
    purging, resume = threading.Event(), threading.Event()
    purge = journal.history.purge
    journal.history.purge = lambda now_ms: (purging.set(), resume.wait(), purge(now_ms))[2]
    await journal.accept(entry("run-2"))
    copied = asyncio.ensure_future(journal.update_history())
    await asyncio.to_thread(purging.wait)
    assert await journal.accept(entry("run-3")) is None
    resume.set()
    await copied
    await journal.close(clean=True)
    assert len((await opened(tmp_path)).runs) == 3


async def test_a_fault_while_a_transaction_is_filled_ends_the_node(tmp_path, connections):
    lost_with = asyncio.get_running_loop().create_future()
    journal = sqlite_journal(tmp_path, on_lost=lost_with.set_result)
    await journal.open()
    with closing(sqlite3.connect(tmp_path / "up.journal")) as reader:
        reader.execute("SELECT count(*) FROM runs").fetchone()  # otherwise its WAL would be deleted
        connections[0].close()
        await journal.accept(entry("run-1"))
        copied = asyncio.ensure_future(journal.update_history())
        assert isinstance(await lost_with, JournalLost)
    assert not copied.done()
    copied.cancel()
    journal.crash()


async def test_of_many_triggers_at_once_every_duplicate_is_found(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await asyncio.gather(*(journal.accept(entry(f"old-{n}", key=f"k{n}")) for n in range(150)))
    again = [entry(f"new-{n}", key=f"k{n}") for n in range(0, 300, 2)]
    priors = await asyncio.gather(*map(journal.accept, again))
    assert [prior and prior.run_id for prior in priors] == [
        f"old-{n}" if n < 150 else None for n in range(0, 300, 2)
    ]
    await journal.close(clean=True)


async def test_many_runs_at_once_share_syncs(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    syncs, sync = [], journal.log.sync
    journal.log.sync = lambda: (syncs.append(1), sync())[1]
    await asyncio.gather(*(journal.accept(entry(f"run-{n:04}")) for n in range(1_000)))
    await journal.close(clean=True)
    again = sqlite_journal(tmp_path)
    assert len((await again.open()).runs) == 1_000
    await again.close(clean=True)
    assert 0 < len(syncs) < 20


# --- projections and retries -------------------------------------------------


async def test_a_row_matches_its_facts_if_the_last_fact_could_not_be_written(
    tmp_path,
):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A"))
    one = begun("A")
    await write(journal, one, RequestStarted(1))
    await journal.update_history()
    await write(journal, one, Finished(1, 200, 0.5, msgspec.Raw(b"7")))
    put = journal.log.put

    def full(*_):
        raise JournalFull("no room")

    journal.log.put = full
    write_behind(journal, one, Settled(State.SUCCEEDED))
    while journal.blocked is None:
        await asyncio.sleep(0)
    await journal.update_history()
    journal.crash()
    journal.log.put = put
    assert check_journal(tmp_path / "up.journal").problems == []
    (listed,) = SqliteHistory(tmp_path).runs()
    assert listed.state is State.RUNNING


async def test_a_key_is_found_while_its_run_is_being_copied_to_the_history(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A", key="k"))
    projecting, resume = threading.Event(), threading.Event()
    begin = journal.history.begin
    journal.history.begin = lambda lost_with: (projecting.set(), resume.wait(), begin(lost_with))[2]
    copied = asyncio.ensure_future(journal.update_history())
    await asyncio.to_thread(projecting.wait)
    write_behind(journal, begun("A"), Settled(State.FAILED, "no"))
    await asyncio.sleep(0)
    during = await journal.find("k", 1_000)
    assert (await journal.accept(entry("A", key="other"))).run_id == "A"
    resume.set()
    await copied
    after = await journal.accept(entry("B", key="k"))
    assert [(prior.run_id, prior.state) for prior in (during, after)] == [("A", State.FAILED)] * 2
    await journal.close(clean=True)


async def test_a_lookup_that_fails_rolls_back_no_projection(tmp_path, connections):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A", key="k"))
    writing, reading, *_ = connections
    writing.execute("BEGIN IMMEDIATE")  # as in the middle of a projection

    def fail(_):
        raise sqlite3.OperationalError("database is locked")

    reading.before = fail
    with pytest.raises(JournalLocked):
        await journal.find("unknown", 1_000)
    assert writing.in_transaction
    writing.execute("ROLLBACK")
    del reading.before
    await journal.close(clean=True)


async def test_a_projection_that_fails_in_the_middle_is_repeated_completely(
    tmp_path, monkeypatch, connections
):
    monkeypatch.setattr("fractal_rm.adapters.log.projector.RETRY_BLOCKED_S", 0)
    journal = sqlite_journal(tmp_path)
    await journal.open()
    for name in "AB":
        await journal.accept(entry(name, key=name))
    await write(journal, begun("A"), Settled(State.SUCCEEDED))
    left, count = [0, 1, 2, 3, 4, 5], 0

    def fail(statement):
        """The disk is full at the first statement, then at the second, and so on."""
        nonlocal count
        if left and not statement.startswith("ROLLBACK"):
            if count == left[0]:
                left.pop(0)
                count = 0
                raise sqlite3.OperationalError("database or disk is full")
            count += 1

    connections[0].before = fail
    await journal.update_history()
    assert left == []
    del connections[0].before
    await write(journal, begun("B"), Settled(State.SUCCEEDED))
    await journal.close(clean=True)
    assert check_journal(tmp_path / "up.journal").problems == []
    assert [run.state for run in SqliteHistory(tmp_path).runs()] == [State.SUCCEEDED] * 2


async def test_a_cancelled_wait_for_the_history_does_no_harm(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A"))
    copied = asyncio.ensure_future(journal.update_history())
    await asyncio.sleep(0)
    copied.cancel()
    await journal.update_history()
    await journal.close(clean=True)


async def test_runs_that_the_history_had_no_room_for_are_there_at_the_next_start(tmp_path):
    """Also runs that came later, when there was room again."""
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A"))
    tried, begin, full = threading.Event(), journal.history.begin, ["here", "at the end"]

    def begins(stories):
        if full:
            full.pop()
            tried.set()
            raise JournalFull("no room")
        begin(stories)

    journal.history.begin = begins
    first = asyncio.ensure_future(journal.update_history())
    await asyncio.to_thread(tried.wait)
    await journal.accept(entry("B"))
    await write(journal, begun("A"), RequestStarted(1))
    await journal.close(clean=True)
    assert first.cancelled()
    assert full == []
    assert [run.id for run in (await opened(tmp_path)).runs] == ["A", "B"]


async def test_closing_during_a_projection_copies_the_rest(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A"))
    projecting, resume = threading.Event(), threading.Event()
    begin = journal.history.begin
    journal.history.begin = lambda lost_with: (projecting.set(), resume.wait(), begin(lost_with))[2]
    first = asyncio.ensure_future(journal.update_history())
    await asyncio.to_thread(projecting.wait)
    await journal.accept(entry("B"))
    second = asyncio.ensure_future(journal.update_history())
    closing = asyncio.ensure_future(journal.close(clean=True))
    await asyncio.sleep(0)
    resume.set()
    await asyncio.gather(first, second, closing)
    with database_of(tmp_path) as db:
        assert db.execute("SELECT count(*) FROM runs").fetchone() == (2,)


def database_of(folder: Path):
    return closing(sqlite3.connect(folder / "up.journal"))


async def test_while_the_disk_is_full_retries_do_not_depend_on_the_number_of_waiters(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    names = [f"run-{n:02}" for n in range(50)]
    await asyncio.gather(*(journal.accept(entry(name)) for name in names))
    tries = []

    def full(*_):
        tries.append(1)
        raise JournalFull("no room")

    put, journal.log.put = journal.log.put, full
    waiting = [
        asyncio.ensure_future(write(journal, begun(name), RequestStarted(1))) for name in names
    ]
    while not tries:
        await asyncio.sleep(0)
    for _ in range(20):
        waiting.append(journal.wait_durable())
        await asyncio.sleep(0.01)
    assert len(tries) <= 4
    journal.log.put = put
    await asyncio.gather(*waiting)
    await journal.close(clean=True)


async def test_a_disk_that_the_history_fills_refuses_runs_until_it_is_larger(small_disk):
    journal = sqlite_journal(small_disk)
    await journal.open()
    payload = msgspec.Raw(b'"%b"' % (b"x" * 8_000))
    big = (Accepted(FLOW.id, flow_version(FLOW), payload, "mqtt"),)
    accepted = []
    with pytest.raises(JournalFull):
        while True:
            name = f"run-{len(accepted):03}"
            await journal.accept(entry(name, facts=big))
            accepted.append(name)
            await asyncio.wait([asyncio.ensure_future(journal.update_history())], timeout=0.01)
    assert isinstance(journal.blocked, JournalFull)
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    while journal.blocked is not None:
        await asyncio.sleep(0.01)
    assert await journal.accept(entry("after")) is None
    await journal.update_history()
    await journal.close(clean=True)
    assert [run.id for run in (await opened(small_disk)).runs] == [*accepted, "after"]
    assert check_journal(small_disk / "up.journal").problems == []
