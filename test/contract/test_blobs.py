"""Large values are stored in files of their own (blobs), to which the log and history refer."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from disk_journals import (
    DAY_S,
    GIB,
    ManualRetentionClock,
    SmallDisk,
    let_a_day_pass,
    sqlite_journal,
)
from test_descriptors import limit_free_descriptors
from test_history_damage import scrub_all

from fractal_rm.adapters.log.batch import EntryBatch, FactBatch, encoded
from fractal_rm.adapters.log.blob_folder import FolderBlobs, blob_folder
from fractal_rm.adapters.log.timed import MAX_INLINE_BYTES
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.adapters.sqlite.check import journal as check
from fractal_rm.adapters.sqlite.repair import repair
from fractal_rm.domain.facts import Accepted, Finished, Settled, StepPassed
from fractal_rm.domain.journal_errors import (
    JournalDamaged,
    JournalFull,
    JournalMoved,
    JournalNoDescriptor,
    JournalReadOnly,
    JournalUnreadable,
)
from fractal_rm.domain.result import NULL
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import FLOW, accepted, append_fact, begun, entry, write

SIZE = 100_000
MARKER = b"a text that a search can find"


def large(prefix: bytes) -> msgspec.Raw:
    return msgspec.Raw(b'"' + prefix + b"x" * SIZE + b'"')


def blobs_in(folder: Path) -> list[Path]:
    return sorted((folder / "up.blobs").iterdir()) if (folder / "up.blobs").exists() else []


async def accept_large(journal, name: str, prefix: bytes = MARKER) -> Run:
    """Accept a run with a large payload, and write large bytes as its first result."""
    first = accepted(payload=large(prefix))
    await journal.accept(entry(name, key=name, facts=(first,)))
    run = fold(Run(name, FLOW, 1_000), [first])
    await write(journal, run, Finished(1, 200, 0.1, NULL, data=name.encode() + b"\xff" * SIZE))
    return run


async def write_runs(folder: Path, *, in_history: bool) -> None:
    """Write an open run and two ended runs. If ``in_history``, copy them to the history."""
    journal = sqlite_journal(folder)
    await journal.open()
    for name in ("open", "a", "b"):
        run = await accept_large(journal, name)
        if name != "open":
            append_fact(journal, run, StepPassed(2, large(b"fault")))
            await write(journal, run, Settled(State.SUCCEEDED))
    if in_history:
        await journal.update_history()
        await journal.close(clean=True)
    else:
        journal.crash()


def find_blob(folder: Path, value: bytes) -> Path:
    """The first blob file that has ``value`` in its first 100 bytes."""
    return next(file for file in blobs_in(folder) if value in file.read_bytes()[:100])


def delete_file(file: Path) -> None:
    file.unlink()


def truncate_file(file: Path) -> None:
    os.truncate(file, SIZE // 2)


def flip_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[SIZE // 2] ^= 1
    file.write_bytes(content)


DAMAGE = pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (delete_file, "is missing"),
        (truncate_file, "has 50000 of"),
        (flip_bit, "does not match its checksum"),
    ],
)


@pytest.mark.parametrize("in_history", [True, False])
async def test_each_large_value_is_stored_in_one_file_and_can_be_read(tmp_path, in_history):
    await write_runs(tmp_path, in_history=in_history)
    files_with_marker = [
        file for file in tmp_path.rglob("*") if file.is_file() and MARKER in file.read_bytes()
    ]
    assert len(files_with_marker) == 3
    assert {file.parent.name for file in files_with_marker} == {"up.blobs"}
    sizes = [file.stat().st_size for file in tmp_path.glob("up.journal*")]
    assert sum(sizes) < SIZE * 4
    detail = SqliteHistory(tmp_path).run("a")
    first, finished, passed, _ = (timed.fact for timed in detail.facts)
    assert (first.payload, finished.data, passed.reply) == (
        large(MARKER), b"a" + b"\xff" * SIZE, large(b"fault"),
    )  # fmt: skip
    assert detail.unreadable is None
    assert [row.received for row in SqliteHistory(tmp_path).flow_counts()] == [3]
    assert check_journal(tmp_path / "up.journal").problems == []


async def test_small_values_create_no_folder_for_blobs(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    names = [f"run-{n}" for n in range(100)]
    small = accepted(payload=b'"%b"' % (b"x" * 2_000))
    await asyncio.gather(*(journal.accept(entry(name, facts=(small,))) for name in names))
    await journal.close(clean=True)
    assert blobs_in(tmp_path) == []
    assert not (tmp_path / "up.blobs").exists()


@pytest.mark.parametrize("place", [0, 1, 250, 498, 499])
@pytest.mark.parametrize("excess_bytes", [0, 1])
def test_among_many_small_values_only_a_value_above_the_limit_becomes_a_blob(place, excess_bytes):
    value = msgspec.Raw(b"1" * (MAX_INLINE_BYTES + excess_bytes))
    small = [(begun(f"run-{n}"), (1, Finished(1, 200, 0.1, msgspec.Raw(b"1")))) for n in range(500)]
    facts = small.copy()
    facts[place] = (begun("large"), (1, Finished(1, 200, 0.1, value)))
    for batch, blob_count in ((facts, excess_bytes), (small * 10, 0)):
        body, blobs = encoded(FactBatch(batch, lambda: 1), lambda: "0" * 32)
        assert len(blobs) == blob_count
        assert (len(body) < MAX_INLINE_BYTES * 2) == (batch is facts)
    entries = EntryBatch(lambda: 1)
    for n in range(500):
        payload = value if n == place else b"1"
        entries.begin(entry(f"run-{n}", facts=(accepted(payload=payload),)))
    _, blobs = encoded(entries, lambda: "0" * 32)
    assert len(blobs) == excess_bytes


async def test_a_value_that_contains_the_text_of_records_is_stored_unchanged(tmp_path):
    value = msgspec.Raw(
        b'[["a"],["fact","b"],["run","c"]%b]' % (b',["fact","x"],["run","y"]' * 9_000)
    )
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("a", facts=(accepted(payload=value),)))
    await write(journal, begun("a"), Finished(1, 200, 0.1, value))
    await journal.close(clean=True)
    first, finished = (timed.fact for timed in SqliteHistory(tmp_path).run("a").facts)
    assert (first.payload, finished.result) == (value, value)


async def test_without_a_free_descriptor_no_damage_is_reported(tmp_path):
    await write_runs(tmp_path, in_history=True)
    journal = sqlite_journal(tmp_path)
    await journal.open()
    with limit_free_descriptors(0):
        assert scrub_all(journal) is None
    await journal.close(clean=True)


@DAMAGE
async def test_a_lost_value_is_reported_and_the_rest_of_its_run_is_shown(tmp_path, damage, fault):
    await write_runs(tmp_path, in_history=True)
    file = find_blob(tmp_path, b"a\xff")
    damage(file)
    detail = SqliteHistory(tmp_path).run("a")
    assert str(file) in detail.unreadable
    assert fault in detail.unreadable
    kinds = [type(timed.fact) for timed in detail.facts]
    assert kinds == [Accepted, Finished, StepPassed, Settled]
    assert detail.facts[0].fact.payload == large(MARKER)
    assert len(SqliteHistory(tmp_path).runs()) == 3
    (problem,) = check_journal(tmp_path / "up.journal").problems
    assert file.name in problem
    assert fault in problem
    journal = sqlite_journal(tmp_path)
    recovered = await journal.open()
    assert [run.id for run in recovered.runs] == ["open"]
    assert fault in (scrub_all(journal) or "")
    await journal.close(clean=True)


@DAMAGE
async def test_an_open_run_with_a_lost_value_is_set_aside_and_other_runs_are_resumed(
    tmp_path, damage, fault
):
    await write_runs(tmp_path, in_history=True)
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await accept_large(journal, "other")
    await journal.close(clean=True)
    damage(find_blob(tmp_path, b"open\xff"))
    journal = sqlite_journal(tmp_path)
    recovered = await journal.open()
    await journal.close(clean=True)
    assert [run.id for run in recovered.runs] == ["other"]
    assert [each.run.id for each in recovered.broken] == ["open"]
    assert fault in recovered.broken[0].why


async def test_a_start_reports_a_missing_folder_of_blobs(tmp_path):
    await write_runs(tmp_path, in_history=True)
    (tmp_path / "up.blobs").rename(tmp_path / "aside")
    journal = sqlite_journal(tmp_path)
    with pytest.raises(JournalDamaged, match=r"up\.blobs is missing"):
        await journal.open()
    (tmp_path / "aside").rename(tmp_path / "up.blobs")
    journal = sqlite_journal(tmp_path)
    assert [run.id for run in (await journal.open()).runs] == ["open"]
    await journal.close(clean=True)


@DAMAGE
async def test_a_lost_value_that_was_synced_is_reported_as_damage(tmp_path, damage, fault):
    await write_runs(tmp_path, in_history=False)
    file = find_blob(tmp_path, b"a\xff")
    damage(file)
    (problem,) = check_journal(tmp_path / "up.journal").problems
    assert file.name in problem
    assert fault in problem
    if damage is flip_bit:  # a start checks only the size of this blob
        return
    journal = sqlite_journal(tmp_path)
    with pytest.raises(JournalDamaged, match=fault):
        await journal.open()
    assert file.exists() == (damage is not delete_file)


@pytest.mark.parametrize("in_history", [True, False])
@DAMAGE
async def test_a_repair_reports_a_lost_value_and_keeps_everything_else(
    tmp_path, damage, fault, in_history
):
    await write_runs(tmp_path, in_history=in_history)
    path = tmp_path / "up.journal"
    for value in (b"a\xff", b"open\xff"):
        damage(find_blob(tmp_path, value))
    report = repair(path)
    for name in ("a", "open"):
        assert any(f"run {name}" in each and fault in each for each in report.lost)
    assert any("run open" in each and "unknown" in each for each in report.lost)
    assert check_journal(path).problems == []
    history = SqliteHistory(tmp_path)
    assert history.run("b").unreadable is None
    for name, state in (("a", State.SUCCEEDED), ("open", State.UNKNOWN)):
        detail = history.run(name)
        assert detail.summary.state is state
        assert "is lost, as a repair found" in detail.unreadable
        assert detail.facts[0].fact.payload == large(MARKER)
    journal = sqlite_journal(tmp_path)
    assert (await journal.open()).runs == []
    await journal.close(clean=True)
    assert check_journal(path).problems == []
    assert len(blobs_in(tmp_path)) == 6  # three blobs of b, two of a, one of the open run


async def test_a_repair_moves_the_values_of_lost_runs_to_another_folder(tmp_path):
    await write_runs(tmp_path, in_history=True)
    path = tmp_path / "up.journal"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE pages SET body = 'nothing' WHERE run = 2")
    names_before = {file.name for file in blobs_in(tmp_path)}
    report = repair(path)
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.close(clean=True)
    moved_names = {file.name for file in Path(report.blobs_kept_as).iterdir()}
    assert len(moved_names) == 3
    assert {file.name for file in blobs_in(tmp_path)} == names_before - moved_names


async def test_a_blob_without_its_row_is_not_deleted_and_a_repair_restores_the_row(tmp_path):
    await write_runs(tmp_path, in_history=True)
    path = tmp_path / "up.journal"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM blobs WHERE run = 2")
    journal = sqlite_journal(tmp_path)
    await journal.open()
    assert "should have" in (scrub_all(journal) or "")
    await journal.close(clean=True)
    assert len(blobs_in(tmp_path)) == 8
    assert any("should have" in each for each in check_journal(path).problems)
    assert repair(path).lost == []
    assert check_journal(path).problems == []
    assert len(blobs_in(tmp_path)) == 8


# --- retention ---------------------------------------------------------------------------------


async def test_blobs_are_deleted_with_purged_history(tmp_path):
    clock = ManualRetentionClock()
    journal = sqlite_journal(tmp_path, keep=(60, GIB), retention_ms=clock)
    await journal.open()
    run = await accept_large(journal, "a")
    await write(journal, run, Settled(State.SUCCEEDED))
    await journal.update_history()
    assert len(blobs_in(tmp_path)) == 2
    await let_a_day_pass(journal, clock)
    await journal.accept(entry("later", at_ms=DAY_S * 1_000))
    await journal.update_history()
    await journal.close(clean=True)
    assert blobs_in(tmp_path) == []
    assert check_journal(tmp_path / "up.journal").problems == []


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED])
async def test_the_size_limit_of_the_history_includes_blobs(tmp_path, state):
    max_bytes = 10 * SIZE
    journal = sqlite_journal(tmp_path, keep=(7 * DAY_S, max_bytes), failed=(7 * DAY_S, max_bytes))
    await journal.open()
    for n in range(20):
        run = await accept_large(journal, f"run-{n}")
        await write(journal, run, Settled(state))
        await journal.update_history()
    for n in range(5):
        await journal.accept(entry(f"later-{n}"))
        await journal.update_history()
    await journal.close(clean=True)
    assert 0 < sum(file.stat().st_size for file in blobs_in(tmp_path)) < max_bytes
    assert check_journal(tmp_path / "up.journal").problems == []


async def test_blobs_may_be_purged_while_the_log_still_refers_to_them(tmp_path, monkeypatch):
    monkeypatch.setattr("fractal_rm.adapters.log.projector.PROJECT_EVERY_S", 600)
    journal = sqlite_journal(tmp_path, keep=(7 * DAY_S, 0))
    await journal.open()
    open_run = await accept_large(journal, "open")
    ended = await accept_large(journal, "ended")
    await write(journal, ended, Settled(State.SUCCEEDED))
    await write(journal, open_run, Finished(2, 200, 0.1, msgspec.Raw(b"2")))
    for _ in range(3):  # the first update purges the ended run
        await journal.update_history(open_runs=False)
    assert len(blobs_in(tmp_path)) == 2
    journal.crash()
    assert check_journal(tmp_path / "up.journal").problems == []
    journal = sqlite_journal(tmp_path)
    (run,) = (await journal.open()).runs
    assert run == open_run
    await journal.close(clean=True)
    assert check_journal(tmp_path / "up.journal").problems == []


async def test_blobs_without_a_reference_are_deleted_at_the_next_start(tmp_path, monkeypatch):
    clock = ManualRetentionClock()
    journal = sqlite_journal(tmp_path, keep=(60, GIB), retention_ms=clock)
    await journal.open()
    run = await accept_large(journal, "old")
    await write(journal, run, Settled(State.SUCCEEDED))
    await accept_large(journal, "open")
    await journal.update_history()
    # Simulate a kill between the deletion of the rows and the deletion of the files.
    with monkeypatch.context() as patch:
        patch.setattr(FolderBlobs, "delete", lambda *_: None)
        await let_a_day_pass(journal, clock)
        await journal.accept(entry("later", at_ms=DAY_S * 1_000))
        await journal.update_history()
    assert SqliteHistory(tmp_path).run("old") is None
    assert len(blobs_in(tmp_path)) == 4
    # Simulate a kill between the write of a blob and the write of the frame that refers to it.
    _, blobs = encoded_frame(journal)
    journal.log.blobs.write(blobs)
    assert len(blobs_in(tmp_path)) == 5
    journal.crash()
    journal = sqlite_journal(tmp_path)
    assert [each.id for each in (await journal.open()).runs] == [
        "open", "a day later", "just after", "later",
    ]  # fmt: skip
    await journal.close(clean=True)
    assert len(blobs_in(tmp_path)) == 2


def encoded_frame(journal):
    """Return the body of a frame with a large payload, and its blob, without writing them."""
    batch = EntryBatch(lambda: 1_000)
    batch.begin(entry("never", facts=(accepted(payload=large(b"n")),)))
    return encoded(batch, journal.log.new_blob_name)


async def test_a_check_does_not_report_blobs_that_are_purged_during_the_check(
    tmp_path, monkeypatch
):
    await write_runs(tmp_path, in_history=True)
    original = check.verify_blobs

    def purge_meanwhile(db, files, has):
        with closing(sqlite3.connect(tmp_path / "up.journal")) as other, other:
            other.execute("DELETE FROM blobs WHERE run IN (SELECT no FROM runs WHERE id = 'a')")
        for value in (b"a\xff", b"b\xff"):
            find_blob(tmp_path, value).unlink()
        return original(db, files, has)

    monkeypatch.setattr(check, "verify_blobs", purge_meanwhile)
    blob_problems = [
        line for line in check_journal(tmp_path / "up.journal").problems if "blobs" in line
    ]
    assert len(blob_problems) == 1  # about the blob of run b, whose rows are not deleted


async def test_other_files_in_the_folder_of_blobs_are_kept(tmp_path):
    await write_runs(tmp_path, in_history=True)
    (tmp_path / "up.blobs" / "note").write_text("of a user")
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.close(clean=True)
    assert (tmp_path / "up.blobs" / "note").exists()


# --- full disks and moved folders -------------------------------------------------------------


async def test_if_the_disk_becomes_full_the_written_part_of_a_blob_is_deleted(
    tmp_path, monkeypatch
):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    os_write, free_bytes = os.write, 1_000

    def write_until_full(file, data):
        nonlocal free_bytes
        if not free_bytes:
            raise OSError(errno.ENOSPC, "no room")
        byte_count = os_write(file, bytes(data[:free_bytes]))
        free_bytes -= byte_count
        return byte_count

    with monkeypatch.context() as patch:
        patch.setattr("fractal_rm.adapters.log.blob_folder.os.write", write_until_full)
        with pytest.raises(JournalFull, match="the disk is full"):
            await journal.accept(entry("a", facts=(accepted(payload=large(b"a")),)))
        assert isinstance(journal.blocked, JournalFull)
        assert blobs_in(tmp_path) == []
    while journal.blocked is not None:
        await asyncio.sleep(0.05)
    run = await accept_large(journal, "b")
    await write(journal, run, Settled(State.SUCCEEDED))
    await journal.close(clean=True)
    assert [run.id for run in SqliteHistory(tmp_path).runs()] == ["b"]
    assert check_journal(tmp_path / "up.journal").problems == []


async def test_if_a_frame_cannot_be_written_its_blobs_are_deleted(tmp_path, monkeypatch):
    journal = sqlite_journal(tmp_path)
    await journal.open()

    def full(*_):
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(SmallDisk, "write", full)
        with pytest.raises(JournalFull):
            await journal.accept(entry("a", facts=(accepted(payload=large(b"a")),)))
        assert blobs_in(tmp_path) == []
    await journal.close(clean=True)


async def test_without_a_free_descriptor_new_blobs_are_refused_and_earlier_blobs_are_synced(
    tmp_path, monkeypatch
):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await accept_large(journal, "a")

    synced = []

    def none_free(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("fractal_rm.adapters.log.blob_folder.os.open", none_free)
        patch.setattr("fractal_rm.adapters.log.blob_folder.os.sync", lambda: synced.append(1))
        journal.log.blobs.files.sync([file.name for file in blobs_in(tmp_path)])
        assert synced == [1]
        with pytest.raises(JournalNoDescriptor):
            await journal.accept(entry("b", facts=(accepted(payload=large(b"b")),)))
    while journal.blocked is not None:
        await asyncio.sleep(0.05)
    await accept_large(journal, "b")
    await journal.close(clean=True)
    assert check_journal(tmp_path / "up.journal").problems == []


async def test_a_start_without_permission_to_read_a_blob_fails_and_does_not_set_its_run_aside(
    tmp_path, monkeypatch
):
    await write_runs(tmp_path, in_history=True)

    def deny(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(FolderBlobs, "pieces", deny)
    with pytest.raises(JournalReadOnly, match="Permission denied"):
        await sqlite_journal(tmp_path).open()
    with pytest.raises(JournalUnreadable, match="run the command as the user of the node"):
        SqliteHistory(tmp_path).run("a")
    monkeypatch.undo()
    journal = sqlite_journal(tmp_path)
    assert [run.id for run in (await journal.open()).runs] == ["open"]
    await journal.close(clean=True)


async def test_the_folder_of_blobs_may_be_a_link_to_another_disk(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "up.blobs").symlink_to(tmp_path / "other")
    await write_runs(tmp_path / "state", in_history=True)
    assert len(list((tmp_path / "other").iterdir())) == 8
    assert SqliteHistory(tmp_path / "state").run("a").unreadable is None


@pytest.mark.parametrize("change", ["moved", "replaced"])
async def test_while_the_folder_of_blobs_is_moved_runs_are_refused(tmp_path, change):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await accept_large(journal, "a")
    folder, aside = tmp_path / "up.blobs", tmp_path / "aside"
    folder.rename(aside)
    if change == "replaced":
        folder.mkdir()
    with pytest.raises(JournalMoved, match=r"up\.blobs is not the file that is open"):
        await journal.accept(entry("b"))
    if change == "replaced":
        folder.rmdir()
    aside.rename(folder)
    while journal.blocked is not None:
        await asyncio.sleep(0.05)
    assert await journal.accept(entry("b")) is None
    await journal.close(clean=True)
    assert check_journal(tmp_path / "up.journal").problems == []


@pytest.mark.parametrize("kind", ["a file", "a link to a missing disk"])
async def test_if_a_file_has_the_name_of_the_folder_of_blobs_large_values_are_refused(
    tmp_path, kind
):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    folder = tmp_path / "up.blobs"
    if kind == "a file":
        folder.touch()
    else:
        folder.symlink_to("disk")
    for name in ("a", "b"):
        with pytest.raises(JournalMoved, match=r"up\.blobs is not a folder"):
            await accept_large(journal, name)
    while journal.blocked is not None:
        await asyncio.sleep(0.05)
    assert await journal.accept(entry("small")) is None
    folder.unlink()
    await accept_large(journal, "a")
    await journal.close(clean=True)
    assert check_journal(tmp_path / "up.journal").problems == []


async def test_the_first_large_value_of_a_journal_waits_while_its_state_folder_is_moved(tmp_path):
    folder, aside, errors = tmp_path / "state", tmp_path / "aside", []
    journal = sqlite_journal(folder, on_lost=errors.append)
    await journal.open()
    first = accepted()
    await journal.accept(entry("a", facts=(first,)))
    run = fold(Run("a", FLOW, 1_000), [first])
    folder.rename(aside)
    large_result = write(journal, run, Finished(1, 200, 0.1, NULL, data=b"\xff" * SIZE))
    while journal.blocked is None and not errors:
        await asyncio.sleep(0)
    assert errors == []
    aside.rename(folder)
    await large_result
    await journal.close(clean=True)
    assert SqliteHistory(folder).run("a").unreadable is None


async def test_blobs_of_a_linked_journal_are_next_to_the_target_of_the_link(tmp_path):
    (tmp_path / "real").mkdir()
    journal = sqlite_journal(tmp_path / "real")
    await journal.open()
    await journal.close(clean=True)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "up.journal").symlink_to(tmp_path / "real" / "up.journal")
    journal = sqlite_journal(tmp_path / "linked")
    await journal.open()
    await accept_large(journal, "a")
    await journal.close(clean=True)
    assert len(blobs_in(tmp_path / "real")) == 2
    assert blob_folder(tmp_path / "linked" / "up.journal") == tmp_path / "real" / "up.blobs"
    assert SqliteHistory(tmp_path / "linked").run("a").unreadable is None


async def test_a_value_of_exactly_the_size_limit_is_not_stored_as_a_blob(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("a"))
    await write(journal, begun("a"), Finished(1, 200, 0.1, msgspec.Raw(b"1" * (64 * 1024))))
    await journal.close(clean=False)
    assert blobs_in(tmp_path) == []


# --- a process that is killed ------------------------------------------------------------------

_KILLED_WRITER = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path += sys.argv[3:]
import test_blobs as blobs
from fractal_rm.adapters.log import blob_folder

class KillingOs:
    '''The module os. It kills the process after some system calls.'''
    calls_left = int(sys.argv[2])
    def __getattr__(self, name):
        call = getattr(os, name)
        if name not in ("open", "write", "fdatasync", "fsync", "unlink"):
            return call
        def counted(*args, **options):
            KillingOs.calls_left -= 1
            if KillingOs.calls_left < 0:
                if name == "write":
                    call(args[0], bytes(args[1])[:1000])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **options)
        return counted

async def main():
    journal = blobs.sqlite_journal(Path(sys.argv[1]), keep=(0, 0))
    await journal.open()
    blob_folder.os = KillingOs()
    for n in range(50):
        run = await blobs.accept_large(journal, f"run-{n}")
        print(run.id, flush=True)
        if n % 2:
            await blobs.write(journal, run, blobs.Settled(blobs.State.SUCCEEDED))
            await journal.update_history()

asyncio.run(main())
"""


@pytest.mark.parametrize("calls", [*range(0, 12, 2), 41, 42])
async def test_after_a_kill_at_any_system_call_all_blobs_are_complete_and_referenced(
    tmp_path, calls
):
    module_folders = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    command = [sys.executable, "-c", _KILLED_WRITER, str(tmp_path), str(calls), *module_folders]
    process = subprocess.run(command, check=False, capture_output=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    acknowledged = process.stdout.decode().split()
    assert check_journal(tmp_path / "up.journal").problems == []
    journal = sqlite_journal(tmp_path)
    open_runs = {run.id: run for run in (await journal.open()).runs}
    await journal.close(clean=True)
    for name in acknowledged:
        run = open_runs.get(name)
        if run is None:
            number = int(name.removeprefix("run-"))
            assert number % 2 == 1  # the killed program ends only the runs with odd numbers
            continue
        assert run.accepted.payload == large(MARKER)
        assert run.progress.results == {1: name.encode() + b"\xff" * SIZE}
    with closing(sqlite3.connect(tmp_path / "up.journal")) as db:
        referenced = {name for (name,) in db.execute("SELECT name FROM blobs")}
    assert {file.name for file in blobs_in(tmp_path)} == referenced
