"""The history: blocking calls of the one process that brings the log into it.

A batch of any size is written with a handful of statements that take many rows each.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fractal_rm.adapters.lock import FileLock, Held, wait_for_lock
from fractal_rm.adapters.log.blob_folder import FolderBlobs, blob_folder
from fractal_rm.adapters.log.blobs import BlobFiles
from fractal_rm.adapters.log.history import Projected
from fractal_rm.adapters.log.stories import Stories, Story
from fractal_rm.adapters.sqlite import statements
from fractal_rm.adapters.sqlite.blobs import delete_all, sweep
from fractal_rm.adapters.sqlite.causes import WAIT_S, damaged, is_damage, unusable
from fractal_rm.adapters.sqlite.chain import ChainBroken
from fractal_rm.adapters.sqlite.faults import Faults
from fractal_rm.adapters.sqlite.last_pages import LastPages
from fractal_rm.adapters.sqlite.lookup import find_in
from fractal_rm.adapters.sqlite.many import many_at_once
from fractal_rm.adapters.sqlite.moving import body_of, take_out
from fractal_rm.adapters.sqlite.notes import projected
from fractal_rm.adapters.sqlite.place import files_of
from fractal_rm.adapters.sqlite.prepare import check_files, prepare
from fractal_rm.adapters.sqlite.recover import OpenRuns, run_from
from fractal_rm.adapters.sqlite.retention import PURGE_EVERY_S, Kept, Purge, Turns
from fractal_rm.adapters.sqlite.rows import Writing
from fractal_rm.adapters.sqlite.scrub import BYTES_PER_S, Scrub
from fractal_rm.adapters.sqlite.sums import add_row_sum
from fractal_rm.adapters.still_there import StillThere
from fractal_rm.domain.journal_errors import (
    HistoryDamaged,
    JournalBlocked,
    JournalError,
    JournalGone,
    JournalInUse,
    JournalLost,
)
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import Prior, Recovered

STATEMENTS_KEPT = 100  # prepared: those that take many rows, for each power of two of them

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
        self, path: Path, keep: Kept, *, blobs: BlobFiles | None = None, synchronous: str = "FULL",
        monotonic_s: Callable[[], float], purge_every_s: float = PURGE_EVERY_S,
        scrub_bytes_per_s: int = BYTES_PER_S, passing: bool = False,
    ) -> None:  # fmt: skip
        self._path = path
        self._keep = keep
        self._blobs = blobs or FolderBlobs(blob_folder(path))
        self._synchronous = synchronous
        self._monotonic_s = monotonic_s
        self._passing = passing
        self._versions: set[str] = set()
        self._next_no = 1
        self._purge = Purge()
        self._purges = Turns(purge_every_s)
        self._scrub = Scrub(monotonic_s, scrub_bytes_per_s, self._blobs)
        self._lock: FileLock | None = None
        self._files = StillThere()
        self._db: sqlite3.Connection
        self._last_pages: LastPages
        self._reader: sqlite3.Connection
        self._faults: Faults
        self._writing: Writing

    # --- open and close -----------------------------------------------------------------------

    def open(self) -> Projected:
        """Take the file; returns how far it has the log. Raises JournalError."""
        self.take_lock()
        try:
            check_files(self._path)
            self._db = self._connect()
            prepare(self._db, self._path, self._synchronous)
            self._reader = self._connect_to_read()
            self._scrub.open(self._connect_to_read())
            self._files = files_of(self._path)
            self._next_no = 1 + (self._one("SELECT max(no) FROM runs") or 0)
            self._faults = Faults(self._db)
            self._last_pages = LastPages(self._db)
            had = projected(self._db)
        except (OSError, sqlite3.Error, UnicodeDecodeError) as error:
            self.let_go()
            raise unusable(self._path, error) from error
        except JournalError:
            self.let_go()
            raise
        if had is None:
            self.let_go()
            raise damaged(self._path, "is damaged: it does not say how far it has the log")
        return had

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(
            self._path,
            isolation_level=None,
            check_same_thread=False,
            timeout=WAIT_S,
            cached_statements=STATEMENTS_KEPT,
        )
        add_row_sum(db)
        return db

    def _connect_to_read(self) -> sqlite3.Connection:
        """With all files open that it reads: later no descriptor may be free."""
        db = self._connect()
        db.execute("PRAGMA schema_version").fetchone()
        return db

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
            found = OpenRuns(self._db, self._path, self._blobs)
            found.read()
            clean = bool(self._one("SELECT value FROM meta WHERE name = 'clean'"))
            self._note("clean", 0)
            newest, ended_ms = self._one(statements.NEWEST) or "", self._one(statements.NEWEST_END)
        except (OSError, sqlite3.Error) as error:  # a blob that this user may not read, too
            raise unusable(self._path, error) from error
        return Recovered(found.runs, clean, newest, ended_ms, found.broken)

    def run_of(self, run_id: str) -> Run | None:
        """A run as its pages make it; None: they make none."""
        return run_from(self._db, run_id)

    # --- to and from other journals -----------------------------------------------------------

    def open_ids(self) -> list[str]:
        """The ids of the runs that have no end. Raises JournalError."""
        try:
            return list(self._last_pages.all())
        except sqlite3.Error as error:
            raise unusable(self._path, error) from error

    def body_of(self, run_ids: Sequence[str]) -> bytes:
        """All that is known of open runs, as a log says it of new ones. Raises JournalError."""
        try:
            return body_of(self._db, run_ids)
        except ChainBroken as error:
            raise damaged(self._path, str(error)) from error
        except sqlite3.Error as error:
            raise unusable(self._path, error) from error

    def take_out(self, run_ids: Sequence[str]) -> None:
        """Forget open runs: another journal has them. Raises JournalBlocked, JournalLost."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            names = take_out(self._db, run_ids)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._write_failed(error) from error
        delete_all(self._blobs, names)
        self._last_pages.ended(run_ids)

    def close(self, *, clean: bool) -> None:
        """Mark how it ended and let go. Raises JournalBlocked: then the end counts as a crash."""
        try:
            if clean:
                self._files.check()
                self._note("clean", 1)
        except sqlite3.Error as error:
            raise self._cause(error) from error
        finally:
            self._scrub.close()
            self._reader.close()
            self._db.close()
            self.let_go()

    def let_go(self) -> None:
        """Release the lock, watch the files no more."""
        self._files.close()
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
            raise self._failed(error) from error

    def check(self) -> None:
        """Whether what is written will be found at the next start. Raises JournalGone."""
        self._files.check()

    def look(self) -> None:
        """`check`, and keep the lock. Raises JournalGone; JournalLost: another has it."""
        self._files.check()
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

    def project(self, stories: Stories, reached: Projected) -> None:
        """Take in what the log tells, and how far that goes; or nothing of it.

        Raises JournalBlocked, JournalLost.
        """
        self.begin(stories)
        self.add(stories.new)
        self.commit(stories, reached)

    def begin(self, stories: Stories) -> None:
        """The first part of `project`: what is told of runs that the history has."""
        self._files.check()
        with self._all_or_nothing():
            self._db.execute("BEGIN IMMEDIATE")
            self._writing = Writing(self._db, stories.flows, self._next_no, self._faults)
            self._writing.change(stories.older, self._last_pages.all)

    def add(self, stories: Iterable[Story]) -> None:
        """The second part, in slices: new runs. Some 8 µs a run, and nothing old is read."""
        with self._all_or_nothing():
            self._writing.add(stories)

    def commit(self, stories: Stories, reached: Projected) -> None:
        """The last part: all of it is durable, or nothing."""
        db, writing = self._db, self._writing
        with self._all_or_nothing():
            writing.end(stories.again)
            many_at_once(db, statements.INSERT_KEYS, writing.key_rows)
            for name, more in writing.counts.items():
                db.execute(statements.COUNT, {"name": name, "more": more})
            self._note("projected", reached.all)
            self._note("ended_until", reached.ended)
            db.execute("COMMIT")
        self._faults.kept()
        self._next_no = writing.next_no
        self._last_pages.written(writing.last_pages)
        self._last_pages.ended(writing.ended)

    @contextmanager
    def _all_or_nothing(self) -> Generator[None]:
        """Raises JournalBlocked, JournalLost: of the transaction nothing stays."""
        try:
            yield
        except sqlite3.Error as error:
            self._faults.forget()
            raise self._write_failed(error) from error
        except ChainBroken as error:
            raise damaged(self._path, f"is damaged: {error}") from error

    def _note(self, name: str, value: int) -> None:
        self._db.execute(statements.NOTE, {"name": name, "value": value})

    def _write_failed(self, error: sqlite3.Error) -> JournalError:
        """`_failed`, of what was written: nothing of it stays."""
        cause = self._failed(error)
        if isinstance(cause, JournalBlocked) and self._db.in_transaction:
            self._db.execute("ROLLBACK")
        return cause

    def _failed(self, error: sqlite3.Error) -> JournalError:
        cause = self._cause(error)
        return cause if isinstance(cause, JournalBlocked) else JournalLost(f"{self._path}: {error}")

    def _cause(self, error: sqlite3.Error) -> JournalError:
        """Damage ends nothing: it is noted, and what needs what is damaged waits for a repair."""
        if not is_damage(error):
            return unusable(self._path, error)
        self._scrub.note(f"it cannot be read or written where it must be ({error})")
        return HistoryDamaged(f"{self._path} is damaged ({error})")

    @property
    def damage(self) -> str | None:
        """What is known to be damaged in it; None: nothing."""
        return self._scrub.damage

    def scrub(self) -> None:
        """Look at a little more of it, as far as the time since the last call allows."""
        with suppress(JournalGone):  # what is read then is not what the next start finds
            self._files.check()
            self._scrub.read_on()

    def purge(self, retention_ms: int) -> None:
        """When it is time, drop one slice of what is too old or too much.

        Open runs stay whatever their age. Raises JournalBlocked, JournalLost.
        """
        if not self._purges.come(self._monotonic_s()):
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            more, names = self._purge.drop_slice(self._db, retention_ms, self._keep())
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._purge = Purge(self._purge.behind) if is_damage(error) else Purge()
            raise self._write_failed(error) from error
        delete_all(self._blobs, names)
        if more:
            self._purges.again()

    def sweep(self) -> None:
        """Delete the blobs that no run has: it has all that the log tells. Raises JournalError."""
        try:
            sweep(self._db, self._blobs)
        except (OSError, sqlite3.Error) as error:
            raise unusable(self._path, error) from error

    def _one(self, statement: str) -> Any:
        row = self._db.execute(statement).fetchone()
        return row[0] if row else None
