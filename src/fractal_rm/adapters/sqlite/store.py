"""The journal file and its one writer connection: blocking calls, one at a time, from any thread.

A group of any size is written with a handful of statements that take many rows each.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from fractal_rm.adapters.lock import FileLock, Held
from fractal_rm.adapters.sqlite import schema
from fractal_rm.adapters.sqlite.causes import WAIT_S, unusable
from fractal_rm.adapters.sqlite.group import Change, Finds, Group, Rows, Tail, Writing
from fractal_rm.adapters.sqlite.place import Place
from fractal_rm.adapters.sqlite.prepare import check_files, prepare
from fractal_rm.adapters.sqlite.recover import OpenRuns
from fractal_rm.adapters.sqlite.retention import Purge
from fractal_rm.domain.errors import (
    JournalBlocked,
    JournalError,
    JournalGone,
    JournalHeld,
    JournalInUse,
    JournalLost,
)
from fractal_rm.domain.flow import flow_version
from fractal_rm.domain.run import State
from fractal_rm.engine.ports import Entry, Prior, Recovered

ROWS_AT_ONCE = 64
STATEMENTS_KEPT = 400  # prepared: six that take many rows, for each number of them

# The module takes numbers and texts as they are. For any other value, of each row, it looks for an
# adapter in three places, unless one is registered.
sqlite3.register_adapter(bytes, bytes)
sqlite3.register_adapter(type(None), lambda nothing: nothing)


class Store:
    """One file, one process. ``synchronous`` is SQLite's; FULL is what G1 stands on."""

    def __init__(self, path: Path, synchronous: str = "FULL") -> None:
        self._path = path
        self._synchronous = synchronous
        self._open: dict[str, Tail] = {}
        self._versions: set[str] = set()
        self._next_no = 1
        self._purge = Purge()
        self._lock: FileLock | None = None
        self._db: sqlite3.Connection
        self._place: Place

    # --- open and close -----------------------------------------------------------------------

    def open(self) -> Recovered:
        """Take the file and return its open runs. Raises JournalError with the cause and cure."""
        self._take_lock()
        try:
            check_files(self._path)
            self._db = sqlite3.connect(
                self._path,
                isolation_level=None,
                check_same_thread=False,
                timeout=WAIT_S,
                cached_statements=STATEMENTS_KEPT,
            )
            prepare(self._db, self._path, self._synchronous)
            return self._recover()
        except (OSError, sqlite3.Error) as error:
            self._let_go()
            raise unusable(self._path, error) from error
        except JournalError:
            self._let_go()
            raise

    def _take_lock(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self._path.with_suffix(".lock"))
        except Held as held:
            raise JournalInUse(
                f"{self._path} is in use by process {held.by}; stop that one first, or give this"
                " node its own state.path in comm.conf"
            ) from None
        except OSError as error:
            raise unusable(self._path, error) from error

    def _recover(self) -> Recovered:
        found = OpenRuns(self._db, self._path)
        found.read()
        self._open, self._versions = found.tails, found.versions
        self._next_no = 1 + (self._one("SELECT max(no) FROM runs") or 0)
        clean = bool(self._one("SELECT value FROM meta WHERE name = 'clean'"))
        self._db.execute(schema.MARK, (0,))
        self._place = Place(self._path)
        newest, ended_ms = self._one(schema.NEWEST) or "", self._one(schema.NEWEST_END)
        return Recovered(found.runs, clean, newest, ended_ms, found.broken)

    def close(self, *, clean: bool) -> None:
        """Mark how it ended and let go. Raises JournalBlocked: then the end counts as a crash."""
        try:
            if clean:
                self._place.check()
                self._db.execute(schema.MARK, (1,))
        except sqlite3.Error as error:
            raise unusable(self._path, error) from error
        finally:
            self._db.close()
            self._let_go()

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # --- write --------------------------------------------------------------------------------

    def look_up(self, keyed: Mapping[int, Entry]) -> dict[int, Prior]:
        """Runs that the file has under the trigger ids of entries, by position.

        Raises JournalBlocked, JournalLost. It leaves in memory the places where new ids will stand.
        """
        try:
            found = self._under([(str(entry.key), entry.retention_ms) for entry in keyed.values()])
            ids = [(entry.run_id,) for entry in keyed.values()]
            runs = dict(self._many_at_once(schema.FIND_RUNS, ids, ")"))
        except sqlite3.Error as error:
            raise self._write_failed(error) from error
        known: dict[int, Prior] = {}
        for (position, entry), prior in zip(keyed.items(), found, strict=True):
            if prior is not None:
                known[position] = prior
            elif entry.run_id in runs:
                known[position] = Prior(entry.run_id, entry.digest, State(runs[entry.run_id]))
        return known

    def _under(self, asked: Finds) -> list[Prior | None]:
        """The run under each trigger id, unless that may be used again by then."""
        found = {
            key: (until_ms, Prior(run_id, digest, State(state)))
            for key, until_ms, run_id, digest, state in self._many_at_once(
                schema.FIND_KEYS, [(key,) for key, _ in asked], ")"
            )
        }
        priors: list[Prior | None] = []
        for key, retention_ms in asked:
            until_ms, prior = found.get(key, (0, None))
            priors.append(prior if until_ms > retention_ms else None)
        return priors

    def check_place(self) -> None:
        """Whether what is written will be found at the next start. Raises JournalGone."""
        self._place.check()

    def look(self) -> None:
        """`check_place`, and keep the lock. Raises JournalGone; JournalLost: another has it."""
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

    def begin(self) -> bool:
        """Begin a transaction. False: another program holds the file, and was not waited for.

        Raises JournalFull, JournalGone, JournalLost.
        """
        self._place.check()
        self._db.execute("PRAGMA busy_timeout = 0")
        try:
            self.wait_to_begin()
        except JournalHeld:
            return False
        finally:
            self._db.execute(f"PRAGMA busy_timeout = {WAIT_S * 1000}")
        return True

    def wait_to_begin(self) -> None:
        """Begin a transaction, within WAIT_S. Raises JournalBlocked, JournalLost."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise self._write_failed(error) from error

    def rows_of(self, changes: Mapping[str, Change], retention_ms: int) -> Writing:
        """What happened to open runs, as rows. What happens to them from here on is not in it."""
        writing = Writing(self._open, self._next_no, retention_ms)
        for run_id, change in changes.items():
            writing.change(run_id, change)
        return writing

    def fill(self, writing: Writing, group: Group, known: Mapping[int, Prior]) -> None:
        """Put a whole group into the transaction: `rows_of` its changes, and the new runs.

        ``known`` is what `look_up` found. Raises JournalBlocked, JournalLost.
        """
        try:
            # After the changes, as their pages stand behind: the file grows at its end.
            for position, entry in enumerate(group.entries):
                if not writing.repeats(position, entry, known):
                    writing.add(entry)
            self._put(writing)
            if group.probe:
                self._db.execute(schema.MARK, (0,))
        except sqlite3.Error as error:
            raise self._write_failed(error) from error

    def commit(self, finds: Finds) -> list[Prior | None]:
        """Make durable what was filled in, or nothing of it; then answer questions.

        Raises JournalBlocked, JournalLost. Where it does not, `took` follows.
        """
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._write_failed(error) from error
        return self._under(finds)

    def _put(self, writing: Writing) -> None:
        for flow in writing.flows.values():
            version = flow_version(flow)
            if version not in self._versions:
                self._db.execute(schema.INSERT_FLOW, (version, msgspec.json.encode(flow)))
        self._many_at_once(schema.INSERT_RUNS, writing.new_rows)
        self._many_at_once(schema.INSERT_KEYS, writing.key_rows)
        self._many_at_once(schema.INSERT_PAGES, writing.page_rows)
        self._many_at_once(schema.UPDATE_RUNS[0], writing.changed_rows, schema.UPDATE_RUNS[1])
        for run_id in writing.duplicates:
            self._db.execute(schema.COUNT_DUPLICATE, (run_id,))
        if writing.new_rows or writing.ended:
            self._db.execute(schema.COUNT, (len(writing.new_rows), len(writing.ended)))

    def _many_at_once(self, head: str, rows: Sequence[tuple[Any, ...]], tail: str = "") -> Rows:
        """Execute a statement that takes many rows; returns what it finds."""
        found: Rows = []
        for at in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[at : at + ROWS_AT_ONCE]
            flat = tuple(chain.from_iterable(some))
            found += self._db.execute(_many(head, tail, len(some[0]), len(some)), flat)
        return found

    def took(self, writing: Writing) -> None:
        """The transaction is durable: what it changed is now what is."""
        self._next_no = writing.next_no
        self._versions.update(map(flow_version, writing.flows.values()))
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

    def purge(self, retention_ms: int, history_s: int, history_bytes: int) -> bool:
        """Drop one slice of what is too old or too much. Returns whether there may be more.

        Open runs stay whatever their age. Raises JournalBlocked, JournalLost.
        """
        if not self.begin():
            return True
        try:
            more = self._purge.drop_slice(self._db, retention_ms, history_s, history_bytes)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._purge = Purge()  # what it has passed is as it was
            raise self._write_failed(error) from error
        return more

    def _one(self, statement: str) -> Any:
        row = self._db.execute(statement).fetchone()
        return row[0] if row else None


@cache
def _many(head: str, tail: str, columns: int, rows: int) -> str:
    """A statement that takes many rows at once."""
    one = "(" + ",".join("?" * columns) + ")"
    return head + ",".join([one] * rows) + tail
