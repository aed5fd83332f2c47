"""The SQLite file of a history while a process has it open: lock, connections, error handling."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fractal_rm.adapters.lock import FileLock, LockHeld, wait_for_lock
from fractal_rm.adapters.open_file_check import OpenFileCheck
from fractal_rm.adapters.sqlite.errors import WAIT_S, is_damage, journal_error
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.prepare import check_files, prepare
from fractal_rm.adapters.sqlite.format.row_sums import register_row_sum
from fractal_rm.adapters.sqlite.write.watched_files import watch_files
from fractal_rm.domain.journal_errors import (
    HistoryDamaged,
    JournalBlocked,
    JournalError,
    JournalInUse,
    JournalLost,
    JournalMoved,
)

STATEMENTS_CACHED = 100  # each bulk statement has several texts: for 1, 2, 4, …, 256 rows

# These adapters make binding faster. Without an adapter, sqlite3 searches in three places for each
# value that is neither a number nor a text.
sqlite3.register_adapter(bytes, bytes)
# The adapter of None must return None: the method of an empty dict does so, and is no Python code.
_EMPTY: dict[None, None] = {}
sqlite3.register_adapter(type(None), _EMPTY.get)


class HistoryFile:
    """The open file. ``db`` is the connection for writing, ``reader`` for reads in another thread.

    ``synchronous`` is the value of SQLite's PRAGMA. ``brief_lock``: the journal belongs to another
    process, and is locked only for a short time. ``on_damage`` is called with a description when
    SQLite reports damage.
    """

    db: sqlite3.Connection
    reader: sqlite3.Connection

    def __init__(
        self, path: Path, *, synchronous: str, brief_lock: bool, on_damage: Callable[[str], None]
    ) -> None:
        self.path = path
        self._synchronous = synchronous
        self._brief_lock = brief_lock
        self._on_damage = on_damage
        self._connections: list[sqlite3.Connection] = []
        self._lock: FileLock | None = None
        self._watched = OpenFileCheck()

    def take_lock(self) -> None:
        """Lock the journal, unless it is locked already. Raises JournalInUse, JournalError."""
        if self._lock is not None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = self.path.with_suffix(".lock")
            self._lock = FileLock(lock, brief=True) if self._brief_lock else wait_for_lock(lock)
        except LockHeld as error:
            raise JournalInUse(
                f"{self.path} is in use by process {error.by}; stop that process first, or give"
                " this node its own state.path in comm.conf"
            ) from None
        except OSError as error:
            raise journal_error(self.path, error) from error

    def open(self) -> None:
        """Lock the file, create or migrate it, and watch it. After an error, call `release`.

        Raises JournalError, OSError, sqlite3.Error.
        """
        self.take_lock()
        check_files(self.path)
        self.db = self._connect()
        prepare(self.db, self.path, self._synchronous)
        self.reader = self.connect_to_read()
        self._watched = watch_files(self.path)

    def connect_to_read(self) -> sqlite3.Connection:
        """Return a connection, and open its files now: later, no file descriptor may be free."""
        db = self._connect()
        db.execute("PRAGMA schema_version").fetchone()
        return db

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(
            self.path,
            isolation_level=None,
            check_same_thread=False,
            timeout=WAIT_S,
            cached_statements=STATEMENTS_CACHED,
        )
        self._connections.append(db)
        register_row_sum(db)
        return db

    def close(self) -> None:
        """Close the connections and release the lock. Can be called at any time."""
        for db in reversed(self._connections):
            db.close()
        self._connections.clear()
        self.release()

    def release(self) -> None:
        """Release the lock and stop watching the files."""
        self._watched.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def check_in_place(self) -> None:
        """Raise JournalMoved if the file was deleted, moved or replaced."""
        self._watched.check()

    def keep_lock(self) -> None:
        """Call `check_in_place`, then lock again if the lock file was deleted.

        Raises JournalMoved; JournalLost if another process has locked the journal.
        """
        self.check_in_place()
        try:
            if self._lock is not None:
                self._lock.retake_if_replaced()
        except LockHeld as error:
            raise JournalLost(
                f"{self.path}: its lock file was deleted, and process {error.by} has locked the"
                " journal"
            ) from None
        except OSError as error:
            raise JournalMoved(f"{self.path}: its lock file is missing ({error})") from error

    def value(self, statement: str) -> Any:
        """Return the first value that a statement selects; None if there is no row."""
        row = self.db.execute(statement).fetchone()
        return row[0] if row else None

    def set_meta(self, name: str, value: int) -> None:
        """Set a row of the table ``meta``."""
        self.db.execute(statements.SET_META, {"name": name, "value": value})

    def failed_write_error(self, error: sqlite3.Error) -> JournalError:
        """Do the same as `failed_call_error`, and roll back a transaction that can be retried."""
        cause = self.failed_call_error(error)
        if isinstance(cause, JournalBlocked) and self.db.in_transaction:
            self.db.execute("ROLLBACK")
        return cause

    def failed_call_error(self, error: sqlite3.Error) -> JournalError:
        """Return a JournalBlocked if the write can be retried later, otherwise a JournalLost."""
        cause = self.journal_error_of(error)
        return cause if isinstance(cause, JournalBlocked) else JournalLost(f"{self.path}: {error}")

    def journal_error_of(self, error: sqlite3.Error) -> JournalError:
        """Return the JournalError for an error. Damage is also reported to ``on_damage``."""
        if not is_damage(error):
            return journal_error(self.path, error)
        self._on_damage(f"SQLite cannot read or write a part of it ({error})")
        return HistoryDamaged(f"{self.path} is damaged ({error})")
