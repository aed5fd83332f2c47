"""A process is killed during a migration of the history, or during a projection of the log.

At the next start, the history must be as before the interrupted transaction, or as after it.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from disk_journals import raise_error, sqlite_journal

from fractal_rm.adapters.log import LogJournal
from fractal_rm.adapters.log.blob_folder import FolderBlobs, blob_folder
from fractal_rm.adapters.log.blobs import Blobs
from fractal_rm.adapters.log.disk import FolderDisk, log_folder
from fractal_rm.adapters.log.log import Log
from fractal_rm.adapters.sqlite import HistoryStore
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.adapters.sqlite.format.schema import FORMAT, OLDEST
from fractal_rm.adapters.sqlite.write.limits import HistoryLimits
from fractal_rm.domain.facts import Dead, Finished, Settled, StepFailed
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import OTHER_FLOW, begun, entry, write
from old_journals import convert_to_format

KEEP = HistoryLimits(86_400, 1 << 30, 86_400, 1 << 30)


class Killed(BaseException):
    """Raised where the process would be killed."""


class KillingConnection(sqlite3.Connection):
    """A connection that simulates a kill of the process after ``statements_left`` statements."""

    statements_left = float("inf")

    def execute(self, *args):
        self._count()
        return super().execute(*args)

    def executemany(self, *args):
        self._count()
        return super().executemany(*args)

    @classmethod
    def _count(cls):
        cls.statements_left -= 1
        if cls.statements_left < 0:
            cls.kill()

    @staticmethod
    def kill():
        raise Killed


@pytest.fixture(autouse=True)
def _killing(monkeypatch):
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda *a, **k: connect(*a, **{"factory": KillingConnection, **k})
    )
    yield
    KillingConnection.statements_left = float("inf")


def store_at(path: Path) -> HistoryStore:
    return HistoryStore(path, lambda: KEEP, monotonic_s=lambda: 0.0)


class InlineWorker:
    """A worker without a thread. The caller of `run` does the work, so that it gets `Killed`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self) -> None:
        pass

    def end(self) -> None:
        pass

    def run(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        done = asyncio.get_running_loop().create_future()
        done.set_result(work())
        return done


def journal_of(store: HistoryStore, path: Path) -> LogJournal:
    log = Log(FolderDisk(log_folder(path)), Blobs(FolderBlobs(blob_folder(path))),
              partial(secrets.randbits, 64), segment_bytes=64 * 1024)  # fmt: skip
    return LogJournal(
        log, store, worker=InlineWorker, retention_ms=lambda: 1_000, on_lost=raise_error
    )


def content(path: Path) -> dict[str, list]:
    """Return the rows of each table, by name of the table. The format is in the key "format"."""
    with closing(sqlite3.connect(path)) as db:
        tables = [
            name for (name,) in db.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
            )
        ]  # fmt: skip
        rows = {name: db.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in tables}
        rows["format"] = db.execute("PRAGMA user_version").fetchall()
        return rows


async def write_runs(folder: Path) -> None:
    """Write runs of several kinds, so that every table has rows."""
    journal = sqlite_journal(folder)
    await journal.open()
    for n in range(4):
        await journal.accept(entry(f"run-{n}", key=f"key-{n}"))
        await write(journal, begun(f"run-{n}"), Finished(1, 200, 0.1, msgspec.Raw(b'"r"')))
    failed = begun("run-2")
    await write(journal, failed, StepFailed(1, 1, "answered 503", final=True))
    await write(journal, failed, Settled(State.FAILED, "step 1: answered 503"))
    await write(journal, begun("run-3"), Settled(State.SUCCEEDED))
    await journal.accept(entry("dead", flow=None, facts=(Dead("malformed", "not JSON"),)))
    await journal.close(clean=True)


def is_killed_after(path: Path, statements: int, work) -> bool:
    """Open a store and call ``work``. Simulate a kill after a number of SQL statements.

    Returns False if there were fewer statements, so that nothing was killed.
    """
    store = store_at(path)
    KillingConnection.statements_left = statements
    try:
        store.open()
        work(store)
    except Killed:
        return True
    finally:
        KillingConnection.statements_left = float("inf")
        store.close(clean=False)
    return False


async def test_after_a_kill_each_step_of_a_migration_is_complete_or_undone(tmp_path):
    await write_runs(tmp_path)
    path = tmp_path / "up.journal"
    convert_to_format(path, OLDEST)
    old = path.read_bytes()
    contents = {msgspec.json.encode(content(path))}
    n, formats = 0, set()
    while True:
        path.write_bytes(old)
        if not is_killed_after(path, n, lambda store: None):
            break
        current = content(path)
        ((format_now,),) = current["format"]
        formats.add(format_now)
        contents.add(msgspec.json.encode(current))
        assert check_journal(path).problems == []
        # The next start completes the migration.
        assert not is_killed_after(path, 10_000, lambda store: None)
        assert content(path)["format"] == [(FORMAT,)]
        n += 1
    assert n > 20
    assert formats == set(range(OLDEST, FORMAT + 1))
    assert len(contents) == len(formats)  # each format was seen with only one content
    assert check_journal(path).problems == []


async def test_after_a_kill_during_its_creation_a_history_has_no_table_or_all_tables(tmp_path):
    path, n = tmp_path / "up.journal", 0
    while is_killed_after(path, n, lambda store: None):
        current = content(path)
        has_tables = "runs" in current
        assert current["format"] == [(FORMAT if has_tables else 0,)]
        path.unlink()
        n += 1
    assert n > 20


async def write_into_log(folder: Path) -> None:
    """Write a history with open runs. Its log has more facts, new runs and a new flow."""
    await write_runs(folder)
    journal = sqlite_journal(folder)
    await journal.open()
    run = begun("run-0")
    await write(journal, run, StepFailed(1, 1, "answered 500", final=True))
    await write(journal, run, Settled(State.FAILED, "step 1: answered 500"))
    large = msgspec.Raw(b'"%b"' % (b"r" * 100_000))
    await write(journal, begun("run-1"), Finished(1, 200, 0.1, large))
    await journal.accept(entry("again", key="key-1"))
    await journal.accept(entry("new", flow=OTHER_FLOW, key="key-new"))
    await write(journal, begun("new", OTHER_FLOW), Settled(State.SUCCEEDED))
    journal.crash()


async def start(folder: Path, *, kill_after: float = float("inf")) -> bool:
    """Open and close the journal. Simulate a kill after ``kill_after`` SQL statements.

    The start projects the log into the history. Returns False if there were fewer statements, so
    that nothing was killed.
    """
    path = folder / "up.journal"
    store = store_at(path)
    journal = journal_of(store, path)
    KillingConnection.statements_left = kill_after
    try:
        await journal.open()
    except Killed:
        journal.crash()
        return True
    finally:
        KillingConnection.statements_left = float("inf")
    await journal.close(clean=False)
    return False


class HistoryState(NamedTuple):
    """The position up to which the log is in a history, and all other content as text."""

    position: int
    content: str


def history_state(folder: Path) -> HistoryState:
    rows = content(folder / "up.journal")
    meta = {name: value for name, value, _ in rows.pop("meta")}
    del meta["clean"]
    return HistoryState(meta.pop("projected"), repr((meta, rows)))


async def test_a_killed_projection_has_written_both_the_position_and_the_rows_or_nothing(tmp_path):
    await write_into_log(tmp_path / "killed")
    state_before = history_state(tmp_path / "killed")
    shutil.copytree(tmp_path / "killed", tmp_path / "complete")
    assert not await start(tmp_path / "complete")
    state_after = history_state(tmp_path / "complete")
    assert state_after != state_before
    n, seen = 0, set()
    while True:
        folder = tmp_path / str(n)
        shutil.copytree(tmp_path / "killed", folder)
        if not await start(folder, kill_after=n):
            break
        seen.add(history_state(folder))
        assert check_journal(folder / "up.journal").problems == []
        assert not await start(folder)
        assert history_state(folder).content == state_after.content
        n += 1
    assert n > 20
    assert {state.content for state in seen} == {state_before.content, state_after.content}
    assert {state.position for state in seen if state.content == state_before.content} == {
        state_before.position
    }
    assert state_before.position not in {
        state.position for state in seen if state.content == state_after.content
    }


_KILLED_PROGRAM = """
import sys
from pathlib import Path
sys.path += sys.argv[3:]
import asyncio, os, signal, sqlite3
import test_history_kills as kills
kills.KillingConnection.kill = staticmethod(lambda: os.kill(os.getpid(), signal.SIGKILL))
connect = sqlite3.connect
sqlite3.connect = lambda *a, **k: connect(*a, **{"factory": kills.KillingConnection, **k})
asyncio.run(kills.start(Path(sys.argv[1]), kill_after=int(sys.argv[2])))
"""


def run_killed_program(folder: Path, statements: int) -> None:
    """Open the journal in a process that is killed after a number of SQL statements."""
    module_folders = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    arguments = [str(folder), str(statements), *module_folders]
    process = subprocess.run([sys.executable, "-c", _KILLED_PROGRAM, *arguments], check=False)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("statements", [20, 25, 30])
async def test_the_projection_of_a_killed_process_is_undone(tmp_path, statements):
    await write_into_log(tmp_path)
    state_before = history_state(tmp_path)
    run_killed_program(tmp_path, statements)
    assert history_state(tmp_path) == state_before
    assert not await start(tmp_path)
    assert check_journal(tmp_path / "up.journal").problems == []


@pytest.mark.parametrize("statements", [15, 25, 35])
async def test_the_migration_of_a_killed_process_is_completed_by_the_next_process(
    tmp_path, statements
):
    await write_runs(tmp_path)
    path = tmp_path / "up.journal"
    convert_to_format(path, 2)
    run_killed_program(tmp_path, statements)
    assert check_journal(path).problems == []
    assert not await start(tmp_path)
    assert content(path)["format"] == [(FORMAT,)]
    assert check_journal(path).problems == []
