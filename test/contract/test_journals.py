"""Both journals keep the journal's promises; what only a disk can do to one stands below."""

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
from fractal_rm.adapters.lock import FileLock, Held
from fractal_rm.adapters.log import LogJournal
from fractal_rm.adapters.log.blob_folder import FolderBlobs
from fractal_rm.adapters.log.disk import FolderDisk
from fractal_rm.adapters.memory import MemoryJournal
from fractal_rm.adapters.memory.blobs import MemoryBlobs
from fractal_rm.adapters.memory.disk import MemoryDisk
from fractal_rm.adapters.memory.journal import Disk
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.adapters.sqlite.chain import link, start_of
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.adapters.sqlite.history import journals_in
from fractal_rm.adapters.sqlite.retention import Keep
from fractal_rm.adapters.sqlite.schema import FORMAT, OLDEST
from fractal_rm.domain.facts import (
    Accepted,
    Dead,
    Finished,
    Parked,
    Placed,
    Settled,
    Started,
    StepFailed,
)
from fractal_rm.domain.flow import flow_version
from fractal_rm.domain.journal_errors import (
    JournalDamaged,
    JournalError,
    JournalFull,
    JournalGone,
    JournalHeld,
    JournalInUse,
    JournalLost,
    JournalReadOnly,
    JournalTooNew,
    JournalTooOld,
    JournalUnreadable,
)
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import FLOW, JournalConformance, begun, entry, write
from old_journals import as_written_by

DAY_S, GIB = 86_400, 1 << 30


def lost(error: JournalError) -> None:
    raise AssertionError(error)


class Age:
    """The clock by which history ages, moved by hand."""

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
) -> LogJournal:
    """A journal that looks for old history after every batch, with small segments."""
    path = folder / f"{name}.journal"
    return open_journal(
        path, keep=lambda: Keep(*keep, *(failed or keep)), retention_ms=Age(), on_lost=on_lost,
        purge_every_s=0, segment_bytes=64 * 1024, most_bytes=4 << 20, disk=disk or SmallDisk,
        blobs=blobs or SmallBlobs,
    )  # fmt: skip


class SmallDisk(FolderDisk):
    """A folder that can be full."""

    full = False

    def create(self, name, size):
        if SmallDisk.full:
            raise OSError(errno.ENOSPC, "no room")
        super().create(name, size)


class SmallBlobs(FolderBlobs):
    """The same for blobs."""

    def write(self, name, data):
        if SmallDisk.full:
            raise OSError(errno.ENOSPC, "no room")
        super().write(name, data)


class TestMemoryJournal(JournalConformance):
    @pytest.fixture(autouse=True)
    def _disk(self):
        self.disk = Disk()
        self.disk.others = [Disk()]

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
        """As kill -9 does: files are closed, locks are gone, nothing is flushed."""
        journal.crash()

    def fill(self, journal, *, full):
        SmallDisk.full = full

    def move(self, journal, *, away):
        aside = self.folder.with_name("aside")
        self.folder.rename(aside) if away else aside.rename(self.folder)


class TestLogJournalWithoutPower(JournalConformance):
    """Each crash takes the power away from the log, which keeps what was synced and some more.

    Its history is on a disk that keeps all: it is never brought further than what was synced.
    """

    @pytest.fixture(autouse=True)
    def _disk(self, tmp_path):
        self.folder, self.disk, self.blobs = tmp_path, MemoryDisk(), MemoryBlobs()
        self.chance = random.Random(1)

    def new(self):
        return sqlite_journal(self.folder, disk=lambda _: self.disk, blobs=lambda _: self.blobs)

    def beside(self):
        """The disk of its log keeps all."""
        return sqlite_journal(self.folder, "mqtt")

    def crash(self, journal):
        journal.crash()
        self.disk.lose_power(self.chance)
        self.blobs.lose_power(self.chance)

    def fill(self, journal, *, full):
        self.disk.full = self.blobs.full = full

    def move(self, journal, *, away):
        self.disk.away = self.blobs.away = away


# --- what a disk can do ----------------------------------------------------------------------


async def write_some(folder: Path, *, runs: int = 5) -> None:
    journal = sqlite_journal(folder)
    await journal.open()
    for n in range(runs):
        await journal.accept(entry(f"run-{n}", key=f"key-{n}"))
        one = begun(f"run-{n}")
        await write(journal, one, Placed(None, "the balancer said here"))
        await write(journal, one, Finished(1, 200, 0.1, msgspec.Raw(b'"r"')))
    await journal.close(clean=True)


async def opened(folder: Path):
    journal = sqlite_journal(folder)
    try:
        return await journal.open()
    finally:
        await journal.close(clean=True)


async def test_a_flipped_byte_is_never_read_as_a_good_journal(tmp_path):
    await write_some(tmp_path)
    path = tmp_path / "up.journal"
    good = path.read_bytes()
    whole = msgspec.json.encode((await opened(tmp_path)).runs)
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
        if msgspec.json.encode(found.runs) != whole:
            silently_wrong.append(at)
    assert silently_wrong == []


async def test_a_journal_that_was_cut_short_is_refused(tmp_path):
    await write_some(tmp_path, runs=50)
    path = tmp_path / "up.journal"
    good = path.read_bytes()
    for length in range(100, len(good) - 1, 4_096):
        path.write_bytes(good[:length])
        with pytest.raises(JournalDamaged):
            await opened(tmp_path)


async def test_a_page_that_is_missing_is_named(tmp_path):
    await write_some(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("DELETE FROM pages WHERE run = 3")
    with pytest.raises(JournalDamaged, match="run run-2 has 0 of 1 pages"):
        await opened(tmp_path)
    assert check_journal(tmp_path / "up.journal").problems == ["run run-2 has 0 of 1 pages"]


async def test_a_run_that_has_vanished_is_missed(tmp_path):
    await write_some(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("DELETE FROM runs WHERE id = 'run-4'")
    with pytest.raises(JournalDamaged, match="should hold 5 unfinished runs and holds 4"):
        await opened(tmp_path)


async def test_a_row_that_says_other_than_its_facts_is_named(tmp_path):
    await write_some(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("UPDATE runs SET reason = 'it fell asleep' WHERE id = 'run-4'")
    said = ["the row of run run-4 does not say what its facts say",
            "the row of run run-4 (no. 5) does not match its checksum"]  # fmt: skip
    assert check_journal(tmp_path / "up.journal").problems == said


async def test_a_newer_journal_is_refused_and_not_changed(tmp_path):
    await write_some(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    with pytest.raises(JournalTooNew, match="newer release"):
        await opened(tmp_path)
    with pytest.raises(JournalTooNew, match="newer release"):
        check_journal(tmp_path / "up.journal")


async def test_a_journal_from_before_the_first_release_is_refused_and_not_called_damaged(tmp_path):
    await write_some(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("PRAGMA user_version = 1")
    with pytest.raises(JournalTooOld, match="finish its runs with the program that wrote it"):
        await opened(tmp_path)
    with pytest.raises(JournalTooOld, match="before the first release"):
        check_journal(tmp_path / "up.journal")


async def test_another_program_s_database_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("CREATE TABLE t (a)")
    with pytest.raises(JournalDamaged, match="another program"):
        await opened(tmp_path)


async def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "up.journal").write_bytes(b"hello, world. " * 100)
    with pytest.raises(JournalDamaged, match="cannot be read"):
        await opened(tmp_path)


async def test_a_journal_that_is_gone_while_its_log_has_runs_is_not_begun_anew(tmp_path):
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


async def test_a_run_whose_facts_cannot_follow_on_each_other_is_named(tmp_path):
    await write_some(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        (body,) = db.execute("SELECT body FROM pages WHERE run = 4 AND n = 1").fetchone()
        twice = msgspec.json.encode(2 * msgspec.json.decode(body))
        last = link(start_of("run-3"), 1, twice)
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
    assert problems == ["the row of run run-4 does not say what its facts say",
                        "the row of run run-4 (no. 5) does not match its checksum"]  # fmt: skip


async def test_one_page_that_is_no_json_leaves_the_other_accounts_as_they_are(tmp_path):
    await write_some(tmp_path)
    before = SqliteHistory(tmp_path).ledger()
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("UPDATE pages SET body = CAST('\"maybe_twice\":true' AS BLOB) WHERE run = 4")
    (account,), (was,) = SqliteHistory(tmp_path).ledger(), before
    assert (account.received, account.states) == (was.received - 1, was.states)


def test_a_state_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path):
    assert SqliteHistory(tmp_path / "not yet").runs() == []
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "unmounted").symlink_to("nowhere")
    for name in ("loop", "unmounted"):
        with pytest.raises(JournalUnreadable, match="cannot be read"):
            SqliteHistory(tmp_path / name).ledger()


async def test_a_journal_that_cannot_be_read_keeps_no_other_from_being_checked(tmp_path):
    await write_some(tmp_path)
    (tmp_path / "a.journal").mkdir()
    (tmp_path / "b.journal").symlink_to("b.journal")
    (tmp_path / "c.journal").symlink_to("disk that is not mounted")
    *bad, good = map(check_journal, journals_in(tmp_path))
    reasons = ("Is a directory", "symbolic links", "No such file")
    assert all(why in report.problems[0] for report, why in zip(bad, reasons, strict=True))
    assert good.problems == []


def test_a_journal_that_is_a_fifo_keeps_nobody_waiting_who_looks_at_runs(tmp_path):
    os.mkfifo(tmp_path / "other.journal")
    (unreadable,) = SqliteHistory(tmp_path).page().unreadable
    assert "it is a FIFO" in unreadable


@pytest.mark.parametrize(("make", "what"), [(os.mkfifo, "it is a FIFO"), (os.mkdir, "a directory")])
async def test_a_start_names_the_file_of_a_journal_that_is_none(tmp_path, make, what):
    make(tmp_path / "up.journal-wal")
    with pytest.raises(JournalDamaged, match=f"up.journal-wal: .*{what}"):
        await opened(tmp_path)


async def test_the_lock_is_looked_at_while_something_is_written(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    syncing, looked = threading.Event(), threading.Event()
    sync = journal._log.sync
    journal._log.sync = lambda: (syncing.set(), looked.wait(), sync())[2]
    written = journal.accept(entry("A"))
    await asyncio.to_thread(syncing.wait)
    (tmp_path / "up.lock").unlink()
    journal.look()
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


async def test_who_looks_through_a_journal_for_a_moment_is_waited_for(tmp_path, monkeypatch):
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


def test_who_looks_through_a_journal_leaves_the_lock_file_as_it_was(tmp_path):
    lock = tmp_path / "up.lock"
    lock.write_text("4711")
    passing = FileLock(lock, passing=True)
    with pytest.raises(Held) as held:
        FileLock(lock)
    assert (held.value.by, held.value.passing) == (str(os.getpid()), True)
    passing.release()
    assert lock.read_text() == "4711"


# --- what a person can do to one ---------------------------------------------------------------


def delete_the_file(folder: Path) -> None:
    (folder / "up.journal").unlink()


def delete_the_log(folder: Path) -> None:
    (folder / "up.journal-wal").unlink()


def delete_the_index_of_the_log(folder: Path) -> None:
    (folder / "up.journal-shm").unlink()


def move_and_link(path: Path) -> None:
    """As one does to have a file on another disk."""
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def link_the_file(folder: Path) -> None:
    move_and_link(folder / "up.journal")


def link_the_log(folder: Path) -> None:
    move_and_link(folder / "up.journal-wal")


def rename_the_file(folder: Path) -> None:
    (folder / "up.journal").rename(folder / "old.journal")


def copy_another_file_there(folder: Path) -> None:
    shutil.copy(folder / "up.journal", folder / "new")
    (folder / "new").replace(folder / "up.journal")


def put_another_folder_there(folder: Path) -> None:
    folder.rename(folder.with_name("before"))
    shutil.copytree(folder.with_name("before"), folder)


@pytest.mark.parametrize(
    "harm",
    [delete_the_file, delete_the_log, delete_the_index_of_the_log, link_the_file, link_the_log,
     rename_the_file, copy_another_file_there, put_another_folder_there],
)  # fmt: skip
async def test_a_journal_whose_files_are_others_now_refuses(tmp_path, harm):
    folder = tmp_path / "state"
    journal = sqlite_journal(folder)
    await journal.open()
    await journal.accept(entry("before"))
    harm(folder)
    for name in ("after", "again"):
        with pytest.raises(JournalGone, match="is not the file that is open"):
            await journal.accept(entry(name))
    await journal.close(clean=True)


@pytest.mark.parametrize("end", ["", "-wal", "-shm"])
async def test_the_files_of_a_journal_that_is_a_link_are_where_it_leads_to(tmp_path, end):
    data = tmp_path / "data"
    for folder in (data, tmp_path / "state"):
        folder.mkdir()
    (tmp_path / "state" / "up.journal").symlink_to(data / "real")
    journal = sqlite_journal(tmp_path / "state")
    await journal.open()
    await journal.accept(entry("before"))
    (data / f"real{end}").rename(data / "aside")
    with pytest.raises(JournalGone):
        await journal.accept(entry("after"))
    (data / "aside").rename(data / f"real{end}")
    await journal.wait_durable()
    await journal.close(clean=True)


async def test_a_link_to_a_journal_that_leads_elsewhere_is_another_place(tmp_path):
    (tmp_path / "up.journal").symlink_to("one")
    journal = sqlite_journal(tmp_path)
    await journal.open()
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").replace(tmp_path / "up.journal")
    with pytest.raises(JournalGone):
        await journal.accept(entry("after"))
    await journal.close(clean=True)


async def test_a_file_system_that_is_mounted_over_the_journal_is_another_place(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("only root may mount")
    try:
        with pytest.raises(JournalGone):
            await journal.accept(entry("over"))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    await journal.wait_durable()
    assert await journal.accept(entry("back")) is None
    await journal.close(clean=True)


async def test_what_the_log_held_when_it_was_deleted_is_saved_by_an_ordered_end(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A"))
    delete_the_log(tmp_path)
    journal.look()
    await journal.close(clean=True)
    assert [run.id for run in (await opened(tmp_path)).runs] == ["A"]


async def moved_while_it_writes(folder: Path):
    """A journal whose folder is renamed while a group is on its way to the disk.

    Returns it, where the folder is, and the run that is on its way.
    """
    journal = sqlite_journal(folder)
    await journal.open()
    aside, sync = folder.with_name("aside"), journal._log.sync

    def sync_and_move():
        end = sync()
        journal._log.sync = sync
        folder.rename(aside)
        return end

    journal._log.sync = sync_and_move
    on_its_way = journal.accept(entry("A"))
    while journal.blocked is None:
        await asyncio.sleep(0)
    return journal, aside, on_its_way


async def test_what_was_written_while_the_folder_was_renamed_is_answered_when_it_is_back(tmp_path):
    folder = tmp_path / "state"
    journal, aside, on_its_way = await moved_while_it_writes(folder)
    with pytest.raises(JournalGone):
        await journal.accept(entry("B"))
    assert not on_its_way.done()
    aside.rename(folder)
    assert await on_its_way is None
    assert await journal.accept(entry("C")) is None
    await journal.close(clean=True)
    assert [run.id for run in (await opened(folder)).runs] == ["A", "C"]


async def test_what_was_written_while_the_folder_was_renamed_keeps_no_process_from_ending(tmp_path):
    journal, aside, on_its_way = await moved_while_it_writes(tmp_path / "state")
    await journal.close(clean=True)
    with pytest.raises(JournalGone):
        await on_its_way
    found = await opened(aside)
    assert ([run.id for run in found.runs], found.clean) == (["A"], False)


async def test_a_lock_file_that_was_deleted_is_made_again(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    (tmp_path / "up.lock").unlink()
    journal.look()
    assert await journal.accept(entry("A")) is None
    with pytest.raises(JournalInUse):
        await opened(tmp_path)
    await journal.close(clean=True)


async def test_a_journal_that_a_second_process_has_taken_is_lost_for_the_first(tmp_path):
    told: list[JournalError] = []
    journal = sqlite_journal(tmp_path, on_lost=told.append)
    await journal.open()
    (tmp_path / "up.lock").unlink()
    second = sqlite_journal(tmp_path)
    await second.open()
    journal.look()
    assert [type(error) for error in told] == [JournalLost]
    assert "process" in str(told[0])
    await second.close(clean=True)
    await journal.close(clean=False)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB, where the tests may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


async def test_a_full_disk_refuses_and_goes_on_by_itself_when_there_is_room(small_disk):
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


async def test_what_a_full_disk_held_back_stands_before_what_happened_meanwhile(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("run"))
    one, SmallDisk.full = begun("run"), True
    result = msgspec.Raw(b'"%b"' % (b"y" * 200_000))
    durable = asyncio.ensure_future(write(journal, one, Finished(1, 200, 0.5, result)))
    while journal.blocked is None:
        await asyncio.sleep(0)
    _ = write(journal, one, Started(2))
    SmallDisk.full = False
    await durable
    await journal.close(clean=True)
    (found,) = (await opened(tmp_path)).runs
    assert (found.results, found.in_doubt) == ({1: result}, {"2"})


async def test_a_disk_that_is_full_at_start_says_so(small_disk):
    (small_disk / "filler").write_bytes(b"\0" * (1 << 20))
    with pytest.raises(JournalFull, match="make room"):
        await opened(small_disk)


async def test_a_read_only_folder_names_the_cause_and_the_cure(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(JournalReadOnly, match="write permission"):
        await opened(small_disk)


async def a_day_passes(journal: LogJournal) -> None:
    await journal.bring_over()
    journal._retention_ms.ms = DAY_S * 1_000
    for name in ("a day later", "just after"):
        await journal.accept(entry(name, at_ms=DAY_S * 1_000))
        await journal.bring_over()


async def test_history_older_than_its_bound_is_dropped_and_open_runs_stay(tmp_path):
    journal = sqlite_journal(tmp_path, keep=(60, GIB))
    await journal.open()
    await journal.accept(entry("open", at_ms=0))
    for n in range(20):
        await journal.accept(entry(f"old-{n}", at_ms=1_000))
        await write(journal, begun(f"old-{n}"), Settled(State.SUCCEEDED))
    await a_day_passes(journal)
    await journal.close(clean=True)
    history = SqliteHistory(tmp_path)
    assert {run.id for run in history.runs(limit=100)} == {"open", "a day later", "just after"}
    assert check_journal(tmp_path / "up.journal").problems == []


@pytest.mark.parametrize("jumped_ms", [50 * 365 * DAY_S * 1_000, -50 * 365 * DAY_S * 1_000])
async def test_history_is_as_old_as_it_is_whatever_the_wall_clock_said(tmp_path, jumped_ms):
    start_ms, minute_ms = 1_800_000_000_000, 60_000
    journal = sqlite_journal(tmp_path, keep=(600, GIB))
    age = journal._retention_ms
    age.ms = start_ms
    await journal.open()
    for n in range(20):  # before, while, and after it was wrong: a minute each
        wall_ms = age.ms + (jumped_ms if 5 <= n < 10 else 0)
        await journal.accept(entry(f"run-{n:02}", at_ms=wall_ms))
        await write(journal, begun(f"run-{n:02}"), Settled(State.SUCCEEDED), wall_ms)
        await journal.bring_over()
        age.ms += minute_ms
    for n in range(3):
        await journal.accept(entry(f"then-{n}", at_ms=age.ms))
        await journal.bring_over()
    await journal.close(clean=True)
    kept = [run.id for run in SqliteHistory(tmp_path).runs(limit=100)]
    assert sorted(kept) == [f"run-{n}" for n in range(10, 20)] + ["then-0", "then-1", "then-2"]
    assert check_journal(tmp_path / "up.journal").problems == []


async def test_where_no_run_has_ended_the_latest_moment_of_a_journal_is_an_acceptance(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("one", at_ms=1_000))
    await journal.accept(entry("other", at_ms=2_000))
    await journal.close(clean=True)
    assert (await opened(tmp_path)).latest_ms == 2_000


@pytest.mark.parametrize("jumped_ms", [0, 50 * 365 * DAY_S * 1_000])
async def test_the_latest_moment_of_a_journal_is_not_what_the_wall_clock_said(tmp_path, jumped_ms):
    journal = sqlite_journal(tmp_path)
    assert (await journal.open()).latest_ms is None
    journal._retention_ms.ms = 1_800_000_000_000
    await journal.accept(entry("open", at_ms=1_799_999_000_000))
    wall_ms = 1_800_000_000_000 + jumped_ms
    await journal.accept(entry("ended", at_ms=wall_ms))
    await write(journal, begun("ended"), Settled(State.SUCCEEDED), wall_ms)
    await journal.close(clean=True)
    assert (await opened(tmp_path)).latest_ms == 1_800_000_000_000


@pytest.mark.parametrize("written_by", range(OLDEST, FORMAT))
async def test_a_journal_of_a_release_before_is_read_and_taken_over(tmp_path, written_by):
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


async def test_history_goes_although_a_thousand_parked_runs_are_older(tmp_path):
    journal = sqlite_journal(tmp_path, keep=(60, GIB))
    await journal.open()
    names = [f"parked-{n:04}" for n in range(1_000)]
    await asyncio.gather(*(journal.accept(entry(name)) for name in names))
    for name in names:
        _ = write(journal, begun(name), Parked("no peer answers"))
    await journal.accept(entry("old"))
    await write(journal, begun("old"), Settled(State.SUCCEEDED))
    await a_day_passes(journal)
    for n in range(4):  # each batch takes one slice along
        await journal.accept(entry(f"later-{n}", at_ms=DAY_S * 1_000))
        await journal.bring_over()
    await journal.close(clean=True)
    history = SqliteHistory(tmp_path)
    assert history.run("old") is None
    assert len(history.runs(state=State.PARKED, limit=2_000)) == 1_000


async def test_a_run_whose_trigger_may_come_again_is_known_when_its_facts_are_gone(tmp_path):
    journal = sqlite_journal(tmp_path, keep=(60, GIB))
    await journal.open()
    await journal.accept(entry("old", key="k", at_ms=1_000, window_ms=2 * DAY_S * 1_000))
    await write(journal, begun("old"), Settled(State.SUCCEEDED))
    await a_day_passes(journal)
    prior = await journal.find("k", DAY_S * 1_000)
    assert prior is not None
    assert prior.run_id == "old"
    await journal.close(clean=True)
    assert SqliteHistory(tmp_path).run("old").facts == []
    assert check_journal(tmp_path / "up.journal").problems == []


@pytest.fixture
def person(tmp_path, monkeypatch):
    """Somebody at a prompt of sqlite3, for whom nobody waits long."""
    monkeypatch.setattr("fractal_rm.adapters.sqlite.store.WAIT_S", 0)
    with closing(sqlite3.connect(tmp_path / "up.journal", isolation_level=None)) as person:
        yield person


async def test_while_another_program_holds_the_history_runs_are_taken_and_come_in_later(
    tmp_path, person
):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    person.execute("BEGIN IMMEDIATE")
    assert await journal.accept(entry("A")) is None
    await write(journal, begun("A"), Settled(State.SUCCEEDED))
    brought = asyncio.ensure_future(journal.bring_over())
    assert await journal.accept(entry("B")) is None
    assert [run.id for run in SqliteHistory(tmp_path).runs()] == ["B", "A"]
    assert not brought.done()
    person.execute("COMMIT")
    await brought
    await journal.close(clean=True)
    assert [run.id for run in (await opened(tmp_path)).runs] == ["B"]


async def test_what_the_history_does_not_have_yet_is_bounded(tmp_path, person):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    person.execute("BEGIN IMMEDIATE")
    long = msgspec.Raw(b'"%b"' % (b"x" * 60_000))
    big = (Accepted(FLOW.id, flow_version(FLOW), long, "mqtt"),)
    with pytest.raises(JournalFull, match="not in the history yet"):
        for n in range(100):
            await journal.accept(entry(f"run-{n:02}", facts=big))
    person.execute("COMMIT")
    while journal.blocked is not None:
        await asyncio.sleep(0.01)
    assert await journal.accept(entry("later")) is None
    await journal.close(clean=True)
    found = [run.id for run in (await opened(tmp_path)).runs]
    assert found == [f"run-{n:02}" for n in range(len(found) - 1)] + ["later"]


async def test_a_journal_closes_while_another_program_holds_its_history(tmp_path, person):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A"))
    person.execute("BEGIN IMMEDIATE")
    await write(journal, begun("A"), Settled(State.SUCCEEDED))
    await journal.close(clean=True)
    person.execute("COMMIT")
    found = await opened(tmp_path)
    assert (found.runs, found.clean) == ([], False)


async def test_an_idle_journal_closes_while_another_program_holds_its_file(tmp_path, person):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    person.execute("BEGIN IMMEDIATE")
    await journal.close(clean=True)
    assert isinstance(journal.blocked, JournalHeld)  # who closes it can say so
    person.execute("COMMIT")
    assert not (await opened(tmp_path)).clean


async def test_an_idle_journal_whose_files_are_gone_does_not_end_well(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    (tmp_path / "up.journal").unlink()
    await journal.close(clean=True)
    assert isinstance(journal.blocked, JournalGone)


async def test_the_name_of_a_folder_says_nothing_of_its_disk(tmp_path):
    for name in ("fullstack", "unlocked"):
        (tmp_path / name / "up.lock").mkdir(parents=True)
        with pytest.raises(JournalReadOnly):
            await sqlite_journal(tmp_path / name).open()


async def test_a_file_that_another_program_holds_at_start_says_so(tmp_path, person):
    await (journal := sqlite_journal(tmp_path)).open()
    await journal.close(clean=True)
    person.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalHeld, match="another program"):
        await sqlite_journal(tmp_path).open()


async def test_a_clock_that_is_wrong_for_a_moment_forgets_no_trigger_and_no_history(tmp_path):
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


async def test_a_disk_that_is_lost_while_history_goes_ends_the_node(tmp_path):
    told = asyncio.get_running_loop().create_future()
    journal = sqlite_journal(tmp_path, on_lost=told.set_result)
    await journal.open()
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("DROP TABLE keys")  # only a purge needs it here
    for name in ("first", "second"):
        await journal.accept(entry(name, flow=None, facts=(Dead("malformed", "not JSON"),)))
        brought = asyncio.ensure_future(journal.bring_over())
        await asyncio.wait((brought, told), return_when=asyncio.FIRST_COMPLETED)
    assert isinstance(await told, JournalLost)
    brought.cancel()
    journal.crash()


async def test_lists_and_accounts_span_all_journals_of_a_node(tmp_path):
    for name in ("mqtt", "api"):
        journal = sqlite_journal(tmp_path, name)
        await journal.open()
        await journal.accept(entry(f"{name}-1", key=name))
        await journal.accept(entry(f"{name}-2", key=name))
        await write(journal, begun(f"{name}-1"), Settled(State.SUCCEEDED))
        await journal.close(clean=True)
    history = SqliteHistory(tmp_path)
    assert [run.journal for run in history.runs()] == ["mqtt", "api"]
    (account,) = history.ledger()
    assert (account.received, account.duplicates) == (2, 2)
    assert dict(account.states) == {State.SUCCEEDED: 2}


async def test_a_list_gives_the_reason_that_a_run_has_and_not_one_it_got_over(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("run"))
    one = begun("run")
    for fact in (
        Placed(None, "the balancer said here"),
        StepFailed(1, 1, "connection refused"),
        Finished(1, 200, 0.1, msgspec.Raw(b'"r"')),
        Settled(State.SUCCEEDED),
    ):
        await write(journal, one, fact)
    await journal.close(clean=True)
    (listed,) = SqliteHistory(tmp_path).runs()
    assert (listed.state, listed.reason) == (State.SUCCEEDED, "the balancer said here")


async def test_whatever_is_broken_in_a_journal_lists_and_accounts_say_that_it_is_damaged(tmp_path):
    await write_some(tmp_path, runs=50)
    path = tmp_path / "up.journal"
    good = path.read_bytes()
    history = SqliteHistory(tmp_path)
    refused = 0
    for at in range(0, len(good), 4_096):
        path.write_bytes(good[:at] + b"\xff" * 512 + good[at + 512 :])
        for ask in (history.runs, history.ledger, lambda: history.run("run-7")):
            try:
                ask()
            except JournalDamaged:
                refused += 1
        try:
            check_journal(path)
        except JournalDamaged:
            refused += 1
    assert refused > 3


async def test_pages_of_a_list_follow_one_another(tmp_path):
    await write_some(tmp_path, runs=7)
    history = SqliteHistory(tmp_path)
    first = history.runs(limit=4)
    second = history.runs(limit=4, before=first[-1].id)
    assert [run.id for run in first + second] == [f"run-{n}" for n in reversed(range(7))]


async def test_a_disk_that_is_slow_to_read_does_not_hold_up_the_event_loop(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    looking, go_on = threading.Event(), threading.Event()
    find = journal._history.find
    journal._history.find = lambda asked: (looking.set(), go_on.wait(), find(asked))[2]
    accepted = journal.accept(entry("run-1", key="k"))
    await asyncio.to_thread(looking.wait)
    go_on.set()
    assert await accepted is None
    await journal.close(clean=True)


async def test_what_comes_while_old_history_goes_is_written_after_it(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("run-1"))
    purging, go_on = threading.Event(), threading.Event()
    purge = journal._history.purge
    journal._history.purge = lambda now_ms: (purging.set(), go_on.wait(), purge(now_ms))[2]
    await journal.accept(entry("run-2"))
    brought = asyncio.ensure_future(journal.bring_over())
    await asyncio.to_thread(purging.wait)
    assert await journal.accept(entry("run-3")) is None
    go_on.set()
    await brought
    await journal.close(clean=True)
    assert len((await opened(tmp_path)).runs) == 3


async def test_a_fault_while_a_transaction_is_filled_ends_the_node(tmp_path):
    told = asyncio.get_running_loop().create_future()
    journal = sqlite_journal(tmp_path, on_lost=told.set_result)
    await journal.open()
    with closing(sqlite3.connect(tmp_path / "up.journal")) as reader:
        reader.execute("SELECT count(*) FROM runs").fetchone()  # else its log goes, too
        journal._history._db.close()
        await journal.accept(entry("run-1"))
        brought = asyncio.ensure_future(journal.bring_over())
        assert isinstance(await told, JournalLost)
    assert not brought.done()
    brought.cancel()
    journal.crash()


async def test_of_many_triggers_at_once_each_that_came_before_is_known(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await asyncio.gather(*(journal.accept(entry(f"old-{n}", key=f"k{n}")) for n in range(150)))
    again = [entry(f"new-{n}", key=f"k{n}") for n in range(0, 300, 2)]
    priors = await asyncio.gather(*map(journal.accept, again))
    assert [prior and prior.run_id for prior in priors] == [
        f"old-{n}" if n < 150 else None for n in range(0, 300, 2)
    ]
    await journal.close(clean=True)


async def test_many_runs_at_once_share_transactions(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    syncs, sync = [], journal._log.sync
    journal._log.sync = lambda: (syncs.append(1), sync())[1]
    await asyncio.gather(*(journal.accept(entry(f"run-{n:04}")) for n in range(1_000)))
    await journal.close(clean=True)
    again = sqlite_journal(tmp_path)
    assert len((await again.open()).runs) == 1_000
    await again.close(clean=True)
    assert 0 < len(syncs) < 20


# --- what two threads and a killed process leave -------------------------------------------------


async def test_a_row_says_what_its_facts_say_also_where_the_last_fact_could_not_be_written(
    tmp_path,
):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A"))
    one = begun("A")
    await write(journal, one, Started(1))
    await journal.bring_over()
    await write(journal, one, Finished(1, 200, 0.5, msgspec.Raw(b"7")))
    put = journal._log.put

    def full(*_):
        raise JournalFull("no room")

    journal._log.put = full
    _ = write(journal, one, Settled(State.SUCCEEDED))
    while journal.blocked is None:
        await asyncio.sleep(0)
    await journal.bring_over()
    journal.crash()
    journal._log.put = put
    assert check_journal(tmp_path / "up.journal").problems == []
    (listed,) = SqliteHistory(tmp_path).runs()
    assert listed.state is State.RUNNING


async def test_a_key_is_found_while_its_run_is_on_its_way_into_the_history(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A", key="k"))
    projecting, go_on = threading.Event(), threading.Event()
    begin = journal._history.begin
    journal._history.begin = lambda told: (projecting.set(), go_on.wait(), begin(told))[2]
    brought = asyncio.ensure_future(journal.bring_over())
    await asyncio.to_thread(projecting.wait)
    _ = write(journal, begun("A"), Settled(State.FAILED, "no"))
    await asyncio.sleep(0)
    during = await journal.find("k", 1_000)
    assert (await journal.accept(entry("A", key="other"))).run_id == "A"
    go_on.set()
    await brought
    after = await journal.accept(entry("B", key="k"))
    assert [(prior.run_id, prior.state) for prior in (during, after)] == [("A", State.FAILED)] * 2
    await journal.close(clean=True)


async def test_a_lookup_that_fails_undoes_nothing_that_is_being_brought_over(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A", key="k"))
    history = journal._history
    history._db.execute("BEGIN IMMEDIATE")  # as in the middle of a projection

    class Locked:
        def execute(self, *_):
            raise sqlite3.OperationalError("database is locked")

        def close(self):
            pass

    reader, history._reader = history._reader, Locked()
    with pytest.raises(JournalHeld):
        await journal.find("unknown", 1_000)
    assert history._db.in_transaction
    history._db.execute("ROLLBACK")
    history._reader = reader
    await journal.close(clean=True)


async def test_a_projection_that_fails_in_the_middle_is_done_again_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("fractal_rm.adapters.log.projector.RETRY_BLOCKED_S", 0)
    journal = sqlite_journal(tmp_path)
    await journal.open()
    for name in "AB":
        await journal.accept(entry(name, key=name))
    await write(journal, begun("A"), Settled(State.SUCCEEDED))
    db, left = journal._history._db, [0, 1, 2, 3, 4, 5]

    class Failing:
        """Says that the disk is full at the first statement, then at the second, and so on."""

        count = 0

        def __getattr__(self, name):
            return getattr(db, name)

        def _step(self, name, *what):
            if left and name.startswith("execute") and not what[0].startswith("ROLLBACK"):
                if self.count == left[0]:
                    left.pop(0)
                    self.count = 0
                    raise sqlite3.OperationalError("database or disk is full")
                self.count += 1
            return getattr(db, name)(*what)

        def execute(self, *what):
            return self._step("execute", *what)

        def executemany(self, *what):
            return self._step("executemany", *what)

    journal._history._db = Failing()
    await journal.bring_over()
    assert left == []
    journal._history._db = db
    await write(journal, begun("B"), Settled(State.SUCCEEDED))
    await journal.close(clean=True)
    assert check_journal(tmp_path / "up.journal").problems == []
    assert [run.state for run in SqliteHistory(tmp_path).runs()] == [State.SUCCEEDED] * 2


async def test_who_no_longer_waits_for_the_history_ends_nothing(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A"))
    brought = asyncio.ensure_future(journal.bring_over())
    await asyncio.sleep(0)
    brought.cancel()
    await journal.bring_over()
    await journal.close(clean=True)


async def test_what_the_history_has_no_room_for_at_an_end_is_there_at_the_next_start(tmp_path):
    """Also what came later, for which it had room again."""
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A"))
    tried, begin, full = threading.Event(), journal._history.begin, ["here", "at the end"]

    def begins(stories):
        if full:
            full.pop()
            tried.set()
            raise JournalFull("no room")
        begin(stories)

    journal._history.begin = begins
    first = asyncio.ensure_future(journal.bring_over())
    await asyncio.to_thread(tried.wait)
    await journal.accept(entry("B"))
    await write(journal, begun("A"), Started(1))
    await journal.close(clean=True)
    assert first.cancelled()
    assert full == []
    assert [run.id for run in (await opened(tmp_path)).runs] == ["A", "B"]


async def test_an_end_in_the_middle_of_a_projection_brings_over_the_rest(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A"))
    projecting, go_on = threading.Event(), threading.Event()
    begin = journal._history.begin
    journal._history.begin = lambda told: (projecting.set(), go_on.wait(), begin(told))[2]
    first = asyncio.ensure_future(journal.bring_over())
    await asyncio.to_thread(projecting.wait)
    await journal.accept(entry("B"))
    second = asyncio.ensure_future(journal.bring_over())
    closing = asyncio.ensure_future(journal.close(clean=True))
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(first, second, closing)
    with closing_of(tmp_path) as db:
        assert db.execute("SELECT count(*) FROM runs").fetchone() == (2,)


def closing_of(folder: Path):
    return closing(sqlite3.connect(folder / "up.journal"))


async def test_while_it_is_full_it_is_tried_again_so_often_and_not_for_each_who_waits(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    names = [f"run-{n:02}" for n in range(50)]
    await asyncio.gather(*(journal.accept(entry(name)) for name in names))
    tries = []

    def full(*_):
        tries.append(1)
        raise JournalFull("no room")

    put, journal._log.put = journal._log.put, full
    waiting = [asyncio.ensure_future(write(journal, begun(name), Started(1))) for name in names]
    while not tries:
        await asyncio.sleep(0)
    for _ in range(20):
        waiting.append(journal.wait_durable())
        await asyncio.sleep(0.01)
    assert len(tries) <= 4
    journal._log.put = put
    await asyncio.gather(*waiting)
    await journal.close(clean=True)


async def test_a_disk_that_the_history_fills_refuses_and_goes_on_when_it_is_larger(small_disk):
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
            await asyncio.wait([journal._projector.bring_over()], timeout=0.01)
    assert isinstance(journal.blocked, JournalFull)
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    while journal.blocked is not None:
        await asyncio.sleep(0.01)
    assert await journal.accept(entry("after")) is None
    await journal.bring_over()
    await journal.close(clean=True)
    assert [run.id for run in (await opened(small_disk)).runs] == [*accepted, "after"]
    assert check_journal(small_disk / "up.journal").problems == []
