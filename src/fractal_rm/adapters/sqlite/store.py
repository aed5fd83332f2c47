"""The history: blocking calls of the one process that brings the log into it.

A batch of any size is written with a handful of statements that take many rows each.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fractal_rm.adapters.lock import FileLock, Held, wait_for_lock
from fractal_rm.adapters.log.stories import Stories
from fractal_rm.adapters.sqlite import schema
from fractal_rm.adapters.sqlite.causes import WAIT_S, unusable
from fractal_rm.adapters.sqlite.lookup import find_in
from fractal_rm.adapters.sqlite.moving import stories_of, take_out
from fractal_rm.adapters.sqlite.place import Place
from fractal_rm.adapters.sqlite.prepare import check_files, prepare
from fractal_rm.adapters.sqlite.recover import OpenRuns, run_from
from fractal_rm.adapters.sqlite.retention import PURGE_EVERY_S, Keep, Purge, Turns
from fractal_rm.adapters.sqlite.rows import Tail, Writing, many_at_once
from fractal_rm.domain.errors import (
    JournalBlocked,
    JournalError,
    JournalGone,
    JournalInUse,
    JournalLost,
)
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import Prior, Recovered

STATEMENTS_KEPT = 400  # prepared: six that take many rows, for each number of them

# The module takes numbers and texts as they are. For any other value, of each row, it looks for an
# adapter in three places, unless one is registered.
sqlite3.register_adapter(bytes, bytes)
sqlite3.register_adapter(type(None), lambda nothing: nothing)


class HistoryStore:
    """One file, one process. ``synchronous`` is SQLite's.

    `find` has a connection of its own: it may be called while another call is under way.
    ``passing``: the file is another process's, and is held for a moment.
    """

    def __init__(
        self, path: Path, keep: Keep, *, synchronous: str = "FULL",
        monotonic_s: Callable[[], float], purge_every_s: float = PURGE_EVERY_S,
        passing: bool = False,
    ) -> None:  # fmt: skip
        self._path = path
        self._keep = keep
        self._synchronous = synchronous
        self._monotonic_s = monotonic_s
        self._passing = passing
        self._open: dict[str, Tail] = {}
        self._versions: set[str] = set()
        self._next_no = 1
        self._purge = Purge()
        self._purges = Turns(purge_every_s)
        self._lock: FileLock | None = None
        self._db: sqlite3.Connection
        self._reader: sqlite3.Connection
        self._place: Place

    # --- open and close -----------------------------------------------------------------------

    def open(self) -> int:
        """Take the file; returns how far it has the log. Raises JournalError."""
        self.take_lock()
        try:
            check_files(self._path)
            self._db = self._connect()
            prepare(self._db, self._path, self._synchronous)
            self._reader = self._connect()
            self._place = Place(self._path)
            self._read_tails()
            return self._one("SELECT value FROM meta WHERE name = 'projected'")
        except (OSError, sqlite3.Error) as error:
            self.let_go()
            raise unusable(self._path, error) from error
        except JournalError:
            self.let_go()
            raise

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self._path,
            isolation_level=None,
            check_same_thread=False,
            timeout=WAIT_S,
            cached_statements=STATEMENTS_KEPT,
        )

    def _read_tails(self) -> None:
        rows = self._db.execute(schema.OPEN_RUNS)
        self._open = {row[1]: (row[0], row[2], row[3]) for row in rows}
        self._next_no = 1 + (self._one("SELECT max(no) FROM runs") or 0)

    def take_lock(self) -> None:
        """Hold the file; `open` does so. Raises JournalInUse, JournalError."""
        if self._lock is not None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lock = self._path.with_suffix(".lock")
            self._lock = FileLock(lock, passing=True) if self._passing else wait_for_lock(lock)
        except Held as held:
            raise JournalInUse(
                f"{self._path} is in use by process {held.by}; stop that one first, or give this"
                " node its own state.path in comm.conf"
            ) from None
        except OSError as error:
            raise unusable(self._path, error) from error

    def recover(self) -> Recovered:
        """The runs that have no end, and how the last process ended. Raises JournalError."""
        try:
            found = OpenRuns(self._db, self._path)
            found.read()
            clean = bool(self._one("SELECT value FROM meta WHERE name = 'clean'"))
            self._db.execute(schema.MARK, (0,))
            newest, ended_ms = self._one(schema.NEWEST) or "", self._one(schema.NEWEST_END)
        except sqlite3.Error as error:
            raise unusable(self._path, error) from error
        return Recovered(found.runs, clean, newest, ended_ms, found.broken)

    def run_of(self, run_id: str) -> Run | None:
        """A run as its pages make it; None: they make none."""
        return run_from(self._db, run_id)

    # --- to and from other journals -----------------------------------------------------------

    def open_ids(self) -> list[str]:
        """The ids of the runs that have no end."""
        return list(self._open)

    def stories_of(self, run_ids: Sequence[str]) -> Stories:
        """All that is known of open runs, as of new ones. Raises JournalError."""
        try:
            return stories_of(self._db, run_ids)
        except sqlite3.Error as error:
            raise unusable(self._path, error) from error

    def take_out(self, run_ids: Sequence[str]) -> None:
        """Forget open runs: another journal has them. Raises JournalBlocked, JournalLost."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            take_out(self._db, run_ids)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._write_failed(error) from error
        for run_id in run_ids:
            self._open.pop(run_id, None)

    def close(self, *, clean: bool) -> None:
        """Mark how it ended and let go. Raises JournalBlocked: then the end counts as a crash."""
        try:
            if clean:
                self._db.execute(schema.MARK, (1,))
        except sqlite3.Error as error:
            raise unusable(self._path, error) from error
        finally:
            self._reader.close()
            self._db.close()
            self.let_go()

    def let_go(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # --- write --------------------------------------------------------------------------------

    def find(self, asked: Sequence[tuple[str | None, str, str, int]]) -> list[Prior | None]:
        """The run that has each key, until its time has ended, or else the run id.

        ``asked``: key, run id, digest, and the moment on the retention clock. Raises
        JournalBlocked, JournalLost.
        """
        try:
            return find_in(self._reader, asked)
        except sqlite3.Error as error:
            raise self._write_failed(error) from error

    def check(self) -> None:
        """Whether what is written will be found at the next start. Raises JournalGone."""
        self._place.check()

    def look(self) -> None:
        """`check`, and keep the lock. Raises JournalGone; JournalLost: another has it."""
        self._place.check()
        try:
            if self._lock is not None:
                self._lock.keep()
        except Held as held:
            raise JournalLost(
                f"{self._path}: its lock file was deleted, and process {held.by} has taken the"
                " journal"
            ) from None
        except OSError as error:
            raise JournalGone(f"{self._path}: its lock file is gone ({error})") from error

    def project(self, stories: Stories, position: int) -> None:
        """Take in what the log tells up to a position, or nothing of it.

        Raises JournalBlocked, JournalLost.
        """
        self._place.check()
        writing = Writing(stories, self._open, self._next_no)
        try:
            self._db.execute("BEGIN IMMEDIATE")
            db = self._db
            writing.put(db)
            many_at_once(db, schema.INSERT_KEYS, writing.key_rows)
            db.execute(schema.COUNT, (len(writing.new_rows), len(writing.ended)))
            db.execute(schema.PROJECTED, (position,))
            db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._write_failed(error) from error
        self._next_no = writing.next_no
        self._open.update(writing.tails)
        for run_id in writing.ended:
            self._open.pop(run_id, None)

    def _write_failed(self, error: sqlite3.Error) -> JournalError:
        cause = unusable(self._path, error)
        if not isinstance(cause, JournalBlocked):
            return JournalLost(f"{self._path}: {error}")
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")
        return cause

    def purge(self, retention_ms: int) -> None:
        """When it is time, drop one slice of what is too old or too much.

        Open runs stay whatever their age. Raises JournalBlocked, JournalLost.
        """
        if not self._purges.come(self._monotonic_s()):
            return
        history_s, history_bytes = self._keep()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            more = self._purge.drop_slice(self._db, retention_ms, history_s, history_bytes)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._purge = Purge()  # what it has passed is as it was
            raise self._write_failed(error) from error
        if more:
            self._purges.again()

    def _one(self, statement: str) -> Any:
        row = self._db.execute(statement).fetchone()
        return row[0] if row else None
