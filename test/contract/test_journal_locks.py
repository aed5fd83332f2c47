"""The lock of a journal is held by another process, or its lock file is deleted.

Other tests lock the history, as another program may do.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time

import pytest
from disk_journals import open_and_close, sqlite_journal

from fractal_rm.adapters.lock import FileLock, LockHeld
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.domain.facts import (
    Settled,
)
from fractal_rm.domain.journal_errors import (
    JournalError,
    JournalInUse,
    JournalLocked,
    JournalLost,
)
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import (
    begun,
    entry,
    write,
)


async def test_the_lock_file_is_checked_during_a_sync(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    syncing, checked = threading.Event(), threading.Event()
    sync = journal.log.sync

    def blocked_sync() -> object:
        syncing.set()
        checked.wait()
        return sync()

    journal.log.sync = blocked_sync
    accepted = journal.accept(entry("A"))
    await asyncio.to_thread(syncing.wait)
    (tmp_path / "up.lock").unlink()
    journal.check()
    assert (tmp_path / "up.lock").exists()
    checked.set()
    assert await accepted is None
    await journal.close(clean=True)


async def test_the_error_for_a_journal_in_use_contains_the_id_of_the_other_process(tmp_path):
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from fractal_rm.adapters.lock import FileLock\n"
        "lock = FileLock(Path(sys.argv[1]).with_suffix('.lock'))\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "up.journal")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(JournalInUse, match=f"in use by process {other.pid}"):
            await open_and_close(tmp_path)
        other.stdin.close()


async def test_a_start_waits_if_another_process_holds_the_lock_only_briefly(tmp_path, monkeypatch):
    lock = tmp_path / "up.lock"
    lock.write_text("4711")
    brief_lock = FileLock(lock, brief=True)
    waits, sleep = threading.Event(), time.sleep
    monkeypatch.setattr("fractal_rm.adapters.lock.time.sleep", lambda s: (waits.set(), sleep(s)))
    opening = asyncio.ensure_future(open_and_close(tmp_path))
    await asyncio.to_thread(waits.wait)
    assert not opening.done()
    brief_lock.release()
    assert (await opening).runs == []


def test_a_brief_lock_does_not_change_the_lock_file(tmp_path):
    lock = tmp_path / "up.lock"
    lock.write_text("4711")
    brief_lock = FileLock(lock, brief=True)
    with pytest.raises(LockHeld) as error:
        FileLock(lock)
    assert (error.value.by, error.value.brief) == (str(os.getpid()), True)
    brief_lock.release()
    assert lock.read_text() == "4711"


async def test_a_deleted_lock_file_is_created_again(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    (tmp_path / "up.lock").unlink()
    journal.check()
    assert await journal.accept(entry("A")) is None
    with pytest.raises(JournalInUse):
        await open_and_close(tmp_path)
    await journal.close(clean=True)


async def test_if_a_second_process_locks_a_journal_the_first_process_reports_that_it_is_lost(
    tmp_path,
):
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


async def test_while_the_history_is_locked_runs_are_accepted_and_copied_later(
    tmp_path, other_connection
):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    other_connection.execute("BEGIN IMMEDIATE")
    assert await journal.accept(entry("A")) is None
    await write(journal, begun("A"), Settled(State.SUCCEEDED))
    update = asyncio.ensure_future(journal.update_history())
    assert await journal.accept(entry("B")) is None
    assert [run.id for run in SqliteHistory(tmp_path).runs()] == ["B", "A"]
    assert not update.done()
    other_connection.execute("COMMIT")
    await update
    await journal.close(clean=True)
    assert [run.id for run in (await open_and_close(tmp_path)).runs] == ["B"]


async def test_a_journal_can_be_closed_while_its_history_is_locked(tmp_path, other_connection):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A"))
    other_connection.execute("BEGIN IMMEDIATE")
    await write(journal, begun("A"), Settled(State.SUCCEEDED))
    await journal.close(clean=True)
    other_connection.execute("COMMIT")
    recovered = await open_and_close(tmp_path)
    assert (recovered.runs, recovered.clean) == ([], False)


async def test_an_idle_journal_can_be_closed_while_its_history_is_locked(
    tmp_path, other_connection
):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    other_connection.execute("BEGIN IMMEDIATE")
    await journal.close(clean=True)
    assert isinstance(journal.blocked, JournalLocked)
    other_connection.execute("COMMIT")
    assert not (await open_and_close(tmp_path)).clean


async def test_a_history_that_is_locked_at_start_is_reported(tmp_path, other_connection):
    await (journal := sqlite_journal(tmp_path)).open()
    await journal.close(clean=True)
    other_connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalLocked, match="another program"):
        await sqlite_journal(tmp_path).open()
