"""Large values: each is a file of its own, and log and history refer to it."""

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
from test_descriptors import descriptors_left
from test_history_damage import scrub_all
from test_journals import DAY_S, GIB, a_day_passes, sqlite_journal

from fractal_rm.adapters.log.batch import Beginnings, Facts, encoded
from fractal_rm.adapters.log.blob_folder import FolderBlobs, blob_folder
from fractal_rm.adapters.log.log import Log
from fractal_rm.adapters.log.timed import VALUE_BYTES
from fractal_rm.adapters.sqlite import SqliteHistory, check
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.adapters.sqlite.repair import repair
from fractal_rm.domain.facts import Accepted, Finished, Passed, Settled
from fractal_rm.domain.journal_errors import (
    JournalDamaged,
    JournalFull,
    JournalGone,
    JournalReadOnly,
    JournalUnreadable,
    JournalWithoutFile,
)
from fractal_rm.domain.result import NULL
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import FLOW, accepted, begun, entry, write

SIZE = 100_000
MARK = b"only once on this disk"


def large(begin: bytes) -> msgspec.Raw:
    return msgspec.Raw(b'"' + begin + b"x" * SIZE + b'"')


def blobs_in(folder: Path) -> list[Path]:
    return sorted((folder / "up.blobs").iterdir()) if (folder / "up.blobs").exists() else []


async def takes(journal, name: str, begin: bytes = MARK) -> Run:
    """A run with a large payload and, as its first result, large bytes."""
    first = accepted(payload=large(begin))
    await journal.accept(entry(name, key=name, facts=(first,)))
    run = fold(Run(name, FLOW, 1_000), [first])
    await write(journal, run, Finished(1, 200, 0.1, NULL, data=name.encode() + b"\xff" * SIZE))
    return run


async def written(folder: Path, *, over: bool) -> None:
    """Two runs that have ended and one that is open; ``over``: they are in the history."""
    journal = sqlite_journal(folder)
    await journal.open()
    for name in ("open", "a", "b"):
        run = await takes(journal, name)
        if name != "open":
            _ = write(journal, run, Passed(2, large(b"said")))
            await write(journal, run, Settled(State.SUCCEEDED))
    if over:
        await journal.bring_over()
        await journal.close(clean=True)
    else:
        journal.crash()


def blob_of(folder: Path, value: bytes) -> Path:
    return next(file for file in blobs_in(folder) if value in file.read_bytes()[:100])


def missing(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    os.truncate(file, SIZE // 2)


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[SIZE // 2] ^= 1
    file.write_bytes(content)


DAMAGE = pytest.mark.parametrize(
    ("damage", "said"),
    [(missing, "is missing"), (cut, "has 50000 of"), (flipped, "does not match its checksum")],
)


@pytest.mark.parametrize("over", [True, False])
async def test_a_large_value_is_in_one_file_and_every_reader_finds_it(tmp_path, over):
    await written(tmp_path, over=over)
    holding = [file for file in tmp_path.rglob("*") if file.is_file() and MARK in file.read_bytes()]
    assert len(holding) == 3
    assert {file.parent.name for file in holding} == {"up.blobs"}
    sizes = [file.stat().st_size for file in tmp_path.glob("up.journal*")]
    assert sum(sizes) < SIZE * 4
    detail = SqliteHistory(tmp_path).run("a")
    first, done, passed, _ = (timed.fact for timed in detail.facts)
    assert (first.payload, done.data, passed.reply) == (
        large(MARK), b"a" + b"\xff" * SIZE, large(b"said"),
    )  # fmt: skip
    assert detail.unreadable is None
    assert [row.received for row in SqliteHistory(tmp_path).ledger()] == [3]
    assert check_journal(tmp_path / "up.journal").problems == []


async def test_what_is_small_makes_no_folder(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    names = [f"run-{n}" for n in range(100)]
    few = accepted(payload=b'"%b"' % (b"x" * 2_000))
    await asyncio.gather(*(journal.accept(entry(name, facts=(few,))) for name in names))
    await journal.close(clean=True)
    assert blobs_in(tmp_path) == []
    assert not (tmp_path / "up.blobs").exists()


@pytest.mark.parametrize("place", [0, 1, 250, 498, 499])
@pytest.mark.parametrize("more", [0, 1])
def test_a_large_value_is_found_among_many_that_are_small(place, more):
    value = msgspec.Raw(b"1" * (VALUE_BYTES + more))
    small = [(begun(f"run-{n}"), (1, Finished(1, 200, 0.1, msgspec.Raw(b"1")))) for n in range(500)]
    facts = small.copy()
    facts[place] = (begun("large"), (1, Finished(1, 200, 0.1, value)))
    for batch, expected in ((facts, more), (small * 10, 0)):
        body, blobs = encoded(Facts(batch, lambda: 1), lambda: "0" * 32)
        assert len(blobs) == expected
        assert (len(body) < VALUE_BYTES * 2) == (batch is facts)
    entries = Beginnings(lambda: 1)
    for n in range(500):
        payload = value if n == place else b"1"
        entries.begin(entry(f"run-{n}", facts=(accepted(payload=payload),)))
    assert len(encoded(entries, lambda: "0" * 32)[1]) == more


async def test_a_value_that_looks_as_if_a_record_began_in_it_is_kept_all_the_same(tmp_path):
    value = msgspec.Raw(
        b'[["a"],["fact","b"],["run","c"]%b]' % (b',["fact","x"],["run","y"]' * 9_000)
    )
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("a", facts=(accepted(payload=value),)))
    await write(journal, begun("a"), Finished(1, 200, 0.1, value))
    await journal.close(clean=True)
    first, done = (timed.fact for timed in SqliteHistory(tmp_path).run("a").facts)
    assert (first.payload, done.result) == (value, value)


async def test_where_no_descriptor_is_free_nothing_is_said_to_be_damaged(tmp_path):
    await written(tmp_path, over=True)
    journal = sqlite_journal(tmp_path)
    await journal.open()
    with descriptors_left(0):
        assert scrub_all(journal) is None
    await journal.close(clean=True)


@DAMAGE
async def test_a_value_that_is_lost_is_named_and_what_else_is_known_is_shown(
    tmp_path, damage, said
):
    await written(tmp_path, over=True)
    file = blob_of(tmp_path, b"a\xff")
    damage(file)
    detail = SqliteHistory(tmp_path).run("a")
    assert str(file) in detail.unreadable
    assert said in detail.unreadable
    kinds = [type(timed.fact) for timed in detail.facts]
    assert kinds == [Accepted, Finished, Passed, Settled]
    assert detail.facts[0].fact.payload == large(MARK)
    assert len(SqliteHistory(tmp_path).runs()) == 3
    (problem,) = check_journal(tmp_path / "up.journal").problems
    assert file.name in problem
    assert said in problem
    journal = sqlite_journal(tmp_path)
    found = await journal.open()
    assert [run.id for run in found.runs] == ["open"]
    assert said in (scrub_all(journal) or "")
    await journal.close(clean=True)


@DAMAGE
async def test_a_run_that_is_open_and_lacks_a_value_is_set_aside_and_no_other(
    tmp_path, damage, said
):
    await written(tmp_path, over=True)
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await takes(journal, "other")
    await journal.close(clean=True)
    damage(blob_of(tmp_path, b"open\xff"))
    journal = sqlite_journal(tmp_path)
    found = await journal.open()
    await journal.close(clean=True)
    assert [run.id for run in found.runs] == ["other"]
    assert [each.run.id for each in found.broken] == ["open"]
    assert said in found.broken[0].why


async def test_a_folder_that_was_moved_away_is_asked_for_at_the_start(tmp_path):
    await written(tmp_path, over=True)
    (tmp_path / "up.blobs").rename(tmp_path / "aside")
    journal = sqlite_journal(tmp_path)
    with pytest.raises(JournalDamaged, match=r"up\.blobs is missing"):
        await journal.open()
    (tmp_path / "aside").rename(tmp_path / "up.blobs")
    journal = sqlite_journal(tmp_path)
    assert [run.id for run in (await journal.open()).runs] == ["open"]
    await journal.close(clean=True)


@DAMAGE
async def test_a_lost_value_that_the_log_had_on_the_disk_is_damage_and_named(
    tmp_path, damage, said
):
    await written(tmp_path, over=False)
    file = blob_of(tmp_path, b"a\xff")
    damage(file)
    (problem,) = check_journal(tmp_path / "up.journal").problems
    assert file.name in problem
    assert said in problem
    if damage is flipped:  # found when it is read
        return
    journal = sqlite_journal(tmp_path)
    with pytest.raises(JournalDamaged, match=said):
        await journal.open()
    assert file.exists() == (damage is not missing)


@pytest.mark.parametrize("over", [True, False])
@DAMAGE
async def test_a_repair_keeps_all_but_the_value_and_says_so(tmp_path, damage, said, over):
    await written(tmp_path, over=over)
    path = tmp_path / "up.journal"
    for value in (b"a\xff", b"open\xff"):
        damage(blob_of(tmp_path, value))
    report = repair(path)
    for name in ("a", "open"):
        assert any(f"run {name}" in each and said in each for each in report.gone)
    assert any("run open" in each and "unknown" in each for each in report.gone)
    assert check_journal(path).problems == []
    history = SqliteHistory(tmp_path)
    assert history.run("b").unreadable is None
    for name, state in (("a", State.SUCCEEDED), ("open", State.UNKNOWN)):
        detail = history.run(name)
        assert detail.summary.state is state
        assert "is gone, as a repair has found" in detail.unreadable
        assert detail.facts[0].fact.payload == large(MARK)
    journal = sqlite_journal(tmp_path)
    assert (await journal.open()).runs == []
    await journal.close(clean=True)
    assert check_journal(path).problems == []
    assert len(blobs_in(tmp_path)) == 6  # three of b, two of a, one of the one that was open


async def test_a_repair_keeps_the_values_of_runs_that_are_lost(tmp_path):
    await written(tmp_path, over=True)
    path = tmp_path / "up.journal"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE pages SET body = 'nothing' WHERE run = 2")
    before = {file.name for file in blobs_in(tmp_path)}
    report = repair(path)
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.close(clean=True)
    kept = {file.name for file in Path(report.blobs_kept_as).iterdir()}
    assert len(kept) == 3
    assert {file.name for file in blobs_in(tmp_path)} == before - kept


async def test_what_lost_its_row_is_not_swept_and_a_repair_finds_it_again(tmp_path):
    await written(tmp_path, over=True)
    path = tmp_path / "up.journal"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM blobs WHERE run = 2")
    journal = sqlite_journal(tmp_path)
    await journal.open()
    assert "should have" in (scrub_all(journal) or "")
    await journal.close(clean=True)
    assert len(blobs_in(tmp_path)) == 8
    assert any("should have" in each for each in check_journal(path).problems)
    assert repair(path).gone == []
    assert check_journal(path).problems == []
    assert len(blobs_in(tmp_path)) == 8


# --- what goes ---------------------------------------------------------------------------------


async def test_values_go_with_the_history_that_is_too_old(tmp_path):
    journal = sqlite_journal(tmp_path, keep=(60, GIB))
    await journal.open()
    run = await takes(journal, "a")
    await write(journal, run, Settled(State.SUCCEEDED))
    await journal.bring_over()
    assert len(blobs_in(tmp_path)) == 2
    await a_day_passes(journal)
    await journal.accept(entry("later", at_ms=DAY_S * 1_000))
    await journal.bring_over()
    await journal.close(clean=True)
    assert blobs_in(tmp_path) == []
    assert check_journal(tmp_path / "up.journal").problems == []


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.FAILED])
async def test_values_count_among_the_bytes_that_are_kept(tmp_path, state):
    most = 10 * SIZE
    journal = sqlite_journal(tmp_path, keep=(7 * DAY_S, most), failed=(7 * DAY_S, most))
    await journal.open()
    for n in range(20):
        run = await takes(journal, f"run-{n}")
        await write(journal, run, Settled(state))
        await journal.bring_over()
    for n in range(5):
        await journal.accept(entry(f"later-{n}"))
        await journal.bring_over()
    await journal.close(clean=True)
    assert 0 < sum(file.stat().st_size for file in blobs_in(tmp_path)) < most
    assert check_journal(tmp_path / "up.journal").problems == []


async def test_values_may_go_while_the_log_still_has_what_named_them(tmp_path, monkeypatch):
    monkeypatch.setattr("fractal_rm.adapters.log.projector.PROJECT_EVERY_S", 600)
    journal = sqlite_journal(tmp_path, keep=(7 * DAY_S, 0))
    await journal.open()
    open_run = await takes(journal, "open")
    ended = await takes(journal, "ended")
    await write(journal, ended, Settled(State.SUCCEEDED))
    await write(journal, open_run, Finished(2, 200, 0.1, msgspec.Raw(b"2")))
    assert await journal._projector._bring_over(whole=False)
    for _ in range(2):  # what has ended goes
        journal._projector._look_after(1_000)
    assert len(blobs_in(tmp_path)) == 2
    journal.crash()
    assert check_journal(tmp_path / "up.journal").problems == []
    journal = sqlite_journal(tmp_path)
    (run,) = (await journal.open()).runs
    assert run == open_run
    await journal.close(clean=True)
    assert check_journal(tmp_path / "up.journal").problems == []


async def test_what_nobody_names_after_a_kill_is_swept_at_the_next_start(tmp_path, monkeypatch):
    journal = sqlite_journal(tmp_path, keep=(60, GIB))
    await journal.open()
    run = await takes(journal, "old")
    await write(journal, run, Settled(State.SUCCEEDED))
    await takes(journal, "open")
    await journal.bring_over()
    with monkeypatch.context() as killed:  # after the rows are deleted, before the files are
        killed.setattr(FolderBlobs, "delete", lambda *_: None)
        await a_day_passes(journal)
        await journal.accept(entry("later", at_ms=DAY_S * 1_000))
        await journal.bring_over()
    assert SqliteHistory(tmp_path).run("old") is None
    assert len(blobs_in(tmp_path)) == 4
    with monkeypatch.context() as killed:  # after the file is written, before the frame is
        killed.setattr(Log, "_put", lambda *_: None)
        journal._log.put(*frame_of(journal))
    assert len(blobs_in(tmp_path)) == 5
    journal.crash()
    journal = sqlite_journal(tmp_path)
    assert [each.id for each in (await journal.open()).runs] == [
        "open", "a day later", "just after", "later",
    ]  # fmt: skip
    await journal.close(clean=True)
    assert len(blobs_in(tmp_path)) == 2


def frame_of(journal):
    batch = Beginnings(lambda: 1_000)
    batch.begin(entry("never", facts=(accepted(payload=large(b"n")),)))
    return encoded(batch, journal._log.new_blob)


async def test_a_check_takes_no_value_for_lost_that_goes_meanwhile(tmp_path, monkeypatch):
    await written(tmp_path, over=True)
    looks = check.look_at_blobs

    def meanwhile(db, files, has):
        with closing(sqlite3.connect(tmp_path / "up.journal")) as other, other:
            other.execute("DELETE FROM blobs WHERE run IN (SELECT no FROM runs WHERE id = 'a')")
        for value in (b"a\xff", b"b\xff"):
            blob_of(tmp_path, value).unlink()
        return looks(db, files, has)

    monkeypatch.setattr(check, "look_at_blobs", meanwhile)
    lost = [line for line in check_journal(tmp_path / "up.journal").problems if "blobs" in line]
    assert len(lost) == 1  # of b


async def test_files_of_others_in_the_folder_stay(tmp_path):
    await written(tmp_path, over=True)
    (tmp_path / "up.blobs" / "note").write_text("of a person")
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.close(clean=True)
    assert (tmp_path / "up.blobs" / "note").exists()


# --- what a disk can do ------------------------------------------------------------------------


async def test_a_disk_that_is_full_in_the_middle_of_a_value_keeps_no_part_of_it(
    tmp_path, monkeypatch
):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    write_some, left = os.write, 1_000

    def full(file, data):
        nonlocal left
        if not left:
            raise OSError(errno.ENOSPC, "no room")
        written = write_some(file, bytes(data[:left]))
        left -= written
        return written

    with monkeypatch.context() as filled:
        filled.setattr("fractal_rm.adapters.log.blob_folder.os.write", full)
        with pytest.raises(JournalFull, match="the disk is full"):
            await journal.accept(entry("a", facts=(accepted(payload=large(b"a")),)))
        assert isinstance(journal.blocked, JournalFull)
        assert blobs_in(tmp_path) == []
    while journal.blocked is not None:
        await asyncio.sleep(0.05)
    run = await takes(journal, "b")
    await write(journal, run, Settled(State.SUCCEEDED))
    await journal.close(clean=True)
    assert [run.id for run in SqliteHistory(tmp_path).runs()] == ["b"]
    assert check_journal(tmp_path / "up.journal").problems == []


async def test_a_frame_that_finds_no_room_takes_its_values_along(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    put = journal._log._put

    def full(*_):
        raise JournalFull("no room")

    journal._log._put = full
    with pytest.raises(JournalFull):
        await journal.accept(entry("a", facts=(accepted(payload=large(b"a")),)))
    assert blobs_in(tmp_path) == []
    journal._log._put = put
    await journal.close(clean=True)


async def test_without_a_free_descriptor_it_refuses_and_what_was_taken_is_synced(
    tmp_path, monkeypatch
):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await takes(journal, "a")

    synced = []

    def none_free(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as without:
        without.setattr("fractal_rm.adapters.log.blob_folder.os.open", none_free)
        without.setattr("fractal_rm.adapters.log.blob_folder.os.sync", lambda: synced.append(1))
        journal._log._blobs.files.sync([file.name for file in blobs_in(tmp_path)])
        assert synced == [1]
        with pytest.raises(JournalWithoutFile):
            await journal.accept(entry("b", facts=(accepted(payload=large(b"b")),)))
    while journal.blocked is not None:
        await asyncio.sleep(0.05)
    await takes(journal, "b")
    await journal.close(clean=True)
    assert check_journal(tmp_path / "up.journal").problems == []


async def test_what_this_process_cannot_read_now_is_not_set_aside(tmp_path, monkeypatch):
    await written(tmp_path, over=True)

    def may_not(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(FolderBlobs, "pieces", may_not)
    with pytest.raises(JournalReadOnly, match="Permission denied"):
        await sqlite_journal(tmp_path).open()
    with pytest.raises(JournalUnreadable, match="do this as the user of the node"):
        SqliteHistory(tmp_path).run("a")
    monkeypatch.undo()
    journal = sqlite_journal(tmp_path)
    assert [run.id for run in (await journal.open()).runs] == ["open"]
    await journal.close(clean=True)


async def test_the_folder_may_be_a_link_to_another_disk(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "up.blobs").symlink_to(tmp_path / "other")
    await written(tmp_path / "state", over=True)
    assert len(list((tmp_path / "other").iterdir())) == 8
    assert SqliteHistory(tmp_path / "state").run("a").unreadable is None


@pytest.mark.parametrize("how", ["moved", "replaced"])
async def test_a_folder_that_is_moved_away_refuses_until_it_is_back(tmp_path, how):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await takes(journal, "a")
    folder, aside = tmp_path / "up.blobs", tmp_path / "aside"
    folder.rename(aside)
    if how == "replaced":
        folder.mkdir()
    with pytest.raises(JournalGone, match=r"up\.blobs is not the file that is open"):
        await journal.accept(entry("b"))
    if how == "replaced":
        folder.rmdir()
    aside.rename(folder)
    while journal.blocked is not None:
        await asyncio.sleep(0.05)
    assert await journal.accept(entry("b")) is None
    await journal.close(clean=True)
    assert check_journal(tmp_path / "up.journal").problems == []


@pytest.mark.parametrize("what", ["a file", "a link to a disk that is not there"])
async def test_what_stands_in_the_place_of_the_folder_refuses_large_values_only(tmp_path, what):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    folder = tmp_path / "up.blobs"
    if what == "a file":
        folder.touch()
    else:
        folder.symlink_to("disk")
    for name in ("a", "b"):
        with pytest.raises(JournalGone, match=r"up\.blobs is no folder"):
            await takes(journal, name)
    while journal.blocked is not None:
        await asyncio.sleep(0.05)
    assert await journal.accept(entry("small")) is None
    folder.unlink()
    await takes(journal, "a")
    await journal.close(clean=True)
    assert check_journal(tmp_path / "up.journal").problems == []


async def test_a_first_large_value_while_the_state_folder_is_renamed_waits_for_it(tmp_path):
    folder, aside, lost = tmp_path / "state", tmp_path / "aside", []
    journal = sqlite_journal(folder, on_lost=lost.append)
    await journal.open()
    first = accepted()
    await journal.accept(entry("a", facts=(first,)))
    run = fold(Run("a", FLOW, 1_000), [first])
    folder.rename(aside)
    large_result = write(journal, run, Finished(1, 200, 0.1, NULL, data=b"\xff" * SIZE))
    while journal.blocked is None and not lost:
        await asyncio.sleep(0)
    assert lost == []
    aside.rename(folder)
    await large_result
    await journal.close(clean=True)
    assert SqliteHistory(folder).run("a").unreadable is None


async def test_values_are_written_through_a_link_to_the_journal(tmp_path):
    (tmp_path / "real").mkdir()
    journal = sqlite_journal(tmp_path / "real")
    await journal.open()
    await journal.close(clean=True)
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "up.journal").symlink_to(tmp_path / "real" / "up.journal")
    journal = sqlite_journal(tmp_path / "linked")
    await journal.open()
    await takes(journal, "a")
    await journal.close(clean=True)
    assert len(blobs_in(tmp_path / "real")) == 2
    assert blob_folder(tmp_path / "linked" / "up.journal") == tmp_path / "real" / "up.blobs"
    assert SqliteHistory(tmp_path / "linked").run("a").unreadable is None


async def test_a_value_next_to_the_bound_stays_where_it_is(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("a"))
    await write(journal, begun("a"), Finished(1, 200, 0.1, msgspec.Raw(b"1" * (64 * 1024))))
    await journal.close(clean=False)
    assert blobs_in(tmp_path) == []


# --- a process that is killed ------------------------------------------------------------------

_DIES = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path += sys.argv[3:]
import test_blobs as blobs
from fractal_rm.adapters.log import blob_folder

class Dying:
    left = int(sys.argv[2])
    def __getattr__(self, name):
        do = getattr(os, name)
        if name not in ("open", "write", "fdatasync", "fsync", "unlink"):
            return do
        def counted(*args, **how):
            Dying.left -= 1
            if Dying.left < 0:
                if name == "write":
                    do(args[0], bytes(args[1])[:1000])
                os.kill(os.getpid(), signal.SIGKILL)
            return do(*args, **how)
        return counted

async def main():
    journal = blobs.sqlite_journal(Path(sys.argv[1]), keep=(0, 0))
    await journal.open()
    blob_folder.os = Dying()
    for n in range(50):
        run = await blobs.takes(journal, f"run-{n}")
        print(run.id, flush=True)
        if n % 2:
            await blobs.write(journal, run, blobs.Settled(blobs.State.SUCCEEDED))
            await journal.bring_over()

asyncio.run(main())
"""


@pytest.mark.parametrize("n", [*range(0, 12, 2), 41, 42])
async def test_a_process_that_is_killed_at_any_call_leaves_values_whole_and_none_over(tmp_path, n):
    here = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    command = [sys.executable, "-c", _DIES, str(tmp_path), str(n), *here]
    ended = subprocess.run(command, check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    acknowledged = ended.stdout.decode().split()
    assert check_journal(tmp_path / "up.journal").problems == []
    journal = sqlite_journal(tmp_path)
    found = {run.id: run for run in (await journal.open()).runs}
    await journal.close(clean=True)
    for name in acknowledged:
        run = found.get(name)
        assert run is not None or int(name[4:]) % 2  # it had ended
        assert run is None or run.payload == large(MARK)
        assert run is None or run.results == {1: name.encode() + b"\xff" * SIZE}
    with closing(sqlite3.connect(tmp_path / "up.journal")) as db:
        named = {name for (name,) in db.execute("SELECT name FROM blobs")}
    assert {file.name for file in blobs_in(tmp_path)} == named
