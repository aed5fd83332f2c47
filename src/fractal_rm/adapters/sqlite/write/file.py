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
from fractal_rm.adapters.sqlite.format.row_sums import add_row_sum
from fractal_rm.adapters.sqlite.write.watched_files import watch_files
from fractal_rm.domain.journal_errors import (
    HistoryDamaged,
    JournalBlocked,
    JournalError,
    JournalInUse,
    JournalLost,
    JournalMoved,
)

STATEMENTS_CACHED = 100  # bulk statements have one text for each power of two of rows

# sqlite3 binds numbers and texts directly. For other types it searches for an adapter in three
# places for each value, unless one is registered.
sqlite3.register_adapter(bytes, bytes)
sqlite3.register_adapter(type(None), lambda nothing: nothing)


class HistoryFile:
    """``db`` is the connection to write, ``reader`` a second one for another thread.

    ``synchronous`` is the PRAGMA of SQLite. ``passing``: another process's file, locked for a
    moment. ``on_damage`` is called with a description when SQLite reports damage.
    """

    db: sqlite3.Connection
    reader: sqlite3.Connection

    def __init__(
        self, path: Path, *, synchronous: str, passing: bool, on_damage: Callable[[str], None]
    ) -> None:
        self.path = path
        self._synchronous = synchronous
        self._passing = passing
        self._on_damage = on_damage
        self._connections: list[sqlite3.Connection] = []
        self._lock: FileLock | None = None
        self._watched = OpenFileCheck()

    def take_lock(self) -> None:
        """Lock the journal; `open` does so too. Raises JournalInUse, JournalError."""
        if self._lock is not None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = self.path.with_suffix(".lock")
            self._lock = FileLock(lock, brief=True) if self._passing else wait_for_lock(lock)
        except LockHeld as held:
            raise JournalInUse(
                f"{self.path} is in use by process {held.by}; stop that one first, or give this"
                " node its own state.path in comm.conf"
            ) from None
        except OSError as error:
            raise journal_error(self.path, error) from error

    def open(self) -> None:
        """Lock, create or migrate, and watch the file. Raises JournalError, OSError, sqlite3.Error.

        After an error, call `release`.
        """
        self.take_lock()
        check_files(self.path)
        self.db = self._connect()
        prepare(self.db, self.path, self._synchronous)
        self.reader = self.connect_to_read()
        self._watched = watch_files(self.path)

    def connect_to_read(self) -> sqlite3.Connection:
        """A connection that has opened its files already: later no descriptor may be free."""
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
        add_row_sum(db)
        return db

    def close(self) -> None:
        """Close the connections and release the lock. May be called at any time."""
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
        """Raise JournalGone if the next start would open another file."""
        self._watched.check()

    def keep_lock(self) -> None:
        """Lock again if the lock file was deleted. Raises JournalGone, JournalLost.

        `check_in_place` is called first.
        """
        self.check_in_place()
        try:
            if self._lock is not None:
                self._lock.retake_if_replaced()
        except LockHeld as held:
            raise JournalLost(
                f"{self.path}: its lock file was deleted, and process {held.by} has taken the"
                " journal"
            ) from None
        except OSError as error:
            raise JournalMoved(f"{self.path}: its lock file is gone ({error})") from error

    def value(self, statement: str) -> Any:
        """The first value that a statement selects; None if there is no row."""
        row = self.db.execute(statement).fetchone()
        return row[0] if row else None

    def set_meta(self, name: str, value: int) -> None:
        """Set a row of the table ``meta``."""
        self.db.execute(statements.SET_META, {"name": name, "value": value})

    def write_failed(self, error: sqlite3.Error) -> JournalError:
        """As `failed`; where writing can be retried, the transaction is rolled back."""
        cause = self.failed(error)
        if isinstance(cause, JournalBlocked) and self.db.in_transaction:
            self.db.execute("ROLLBACK")
        return cause

    def failed(self, error: sqlite3.Error) -> JournalError:
        """The JournalBlocked, or else the JournalLost, for an error of an open file."""
        cause = self.cause(error)
        return cause if isinstance(cause, JournalBlocked) else JournalLost(f"{self.path}: {error}")

    def cause(self, error: sqlite3.Error) -> JournalError:
        """The JournalError for an error. Damage is reported, and only blocks what it affects."""
        if not is_damage(error):
            return journal_error(self.path, error)
        self._on_damage(f"it cannot be read or written where it must be ({error})")
        return HistoryDamaged(f"{self.path} is damaged ({error})")
