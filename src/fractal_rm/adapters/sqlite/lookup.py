"""Runs by key or id: in one history, and in all the other ones of a state folder."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fractal_rm.adapters.log.disk import log_folder
from fractal_rm.adapters.log.history import Asked
from fractal_rm.adapters.log.tail import Tail
from fractal_rm.adapters.sqlite import statements
from fractal_rm.adapters.sqlite.many import many_at_once
from fractal_rm.adapters.sqlite.notes import projected
from fractal_rm.adapters.sqlite.prepare import check_files, format_of
from fractal_rm.domain.journal_errors import JournalDamaged, JournalError
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import Prior


def find_in(db: sqlite3.Connection, asked: Sequence[Asked]) -> list[Prior | None]:
    """For each: the run that has its key, until its time has ended, or else its run id.

    One statement for keys and one for ids, up to 64 at once. Raises sqlite3.Error.
    """
    keys = [(key,) for key, *_ in asked if key is not None]
    found_keys = many_at_once(db, statements.FIND_KEYS, keys, ")")
    under = {
        key: (until_ms, Prior(run_id, digest, State(state)))
        for key, until_ms, run_id, digest, state in found_keys
    }
    ids = [(run_id,) for _, run_id, *_ in asked if run_id]
    runs = dict(many_at_once(db, statements.FIND_RUNS, ids, ")"))
    found: list[Prior | None] = []
    for key, run_id, digest, retention_ms in asked:
        until_ms, prior = under.get(key or "", (0, None))
        if until_ms > retention_ms:
            found.append(prior)
        elif run_id in runs:
            found.append(Prior(run_id, digest, State(runs[run_id])))
        else:
            found.append(None)
    return found


class OtherHistories:
    """The journals beside one, read-only: their histories, and what their logs have beyond that.

    Connections are kept. A journal that cannot be read counts as empty until its file is another
    one, or was changed.
    """

    def __init__(self, own: Path) -> None:
        self._own = own
        self._folder_ns = -1  # when something was last added to the folder, or taken from it
        self._paths: list[Path] = []
        self._kept: dict[Path, _Other] = {}

    def find(self, asked: Sequence[Asked]) -> list[Prior | None]:
        """Look in each until all are found. How a run stands may be seconds old."""
        found: list[Prior | None] = [None] * len(asked)
        for path in self._others():
            missing = [at for at, prior in enumerate(found) if prior is None]
            if not missing:
                break
            priors = self._find(path, [asked[at] for at in missing])
            for at, prior in zip(missing, priors, strict=True):
                found[at] = prior
        return found

    def close(self) -> None:
        """Let go of the files."""
        for path in list(self._kept):
            self._let_go(path)

    def _others(self) -> list[Path]:
        folder = self._own.parent
        try:
            changed_ns = folder.stat().st_mtime_ns
            if changed_ns != self._folder_ns:
                self._folder_ns = changed_ns
                self._paths = [path for path in folder.glob("*.journal") if path != self._own]
                for path in self._kept.keys() - set(self._paths):
                    self._let_go(path)
        except OSError:
            self._paths = []
        return self._paths

    def _find(self, path: Path, asked: Sequence[Asked]) -> list[Prior | None]:
        try:
            found = path.stat()
            other = self._kept.get(path)
            if other is None or not other.is_still(found):
                self._let_go(path)
                other = self._kept[path] = _Other(path, found)
            return other.find(asked)
        except (OSError, sqlite3.Error, JournalError, ValueError):  # a state that nobody knows
            return [None] * len(asked)

    def _let_go(self, path: Path) -> None:
        other = self._kept.pop(path, None)
        if other is not None:
            other.close()


class _Other:
    """One of them, as long as its file is the same."""

    def __init__(self, path: Path, found: os.stat_result) -> None:
        self._inode = found.st_dev, found.st_ino
        self._changed_ns = found.st_mtime_ns
        self._tail = Tail(log_folder(path))
        try:
            self._db: sqlite3.Connection | None = _opened(path)
        except (OSError, sqlite3.Error, JournalError):
            self._db = None

    def is_still(self, found: os.stat_result) -> bool:
        """Whether it is that file; of one that cannot be read, whether it is as it was."""
        if self._db is None and found.st_mtime_ns != self._changed_ns:
            return False
        return self._inode == (found.st_dev, found.st_ino)

    def find(self, asked: Sequence[Asked]) -> list[Prior | None]:
        """First in its log: what is brought over meanwhile is then found in its history."""
        if self._db is None:
            return [None] * len(asked)
        self._read_log(self._db)
        recent = [self._tail.find(each) for each in asked]
        self._db.execute("BEGIN")  # one for all that is asked: each takes its locks
        try:
            found = find_in(self._db, asked)
        finally:
            self._db.execute("COMMIT")
        return [prior or late for prior, late in zip(found, recent, strict=True)]

    def _read_log(self, db: sqlite3.Connection) -> None:
        """As far as it can be read; again where its segments were used again meanwhile."""
        before = None
        while True:
            had = projected(db)
            if had is None or had == before:  # before format 5 there was no log
                return
            before = had
            with suppress(JournalDamaged, FileNotFoundError):
                self._tail.look(had.all)
                return

    def close(self) -> None:
        """Let go of the files."""
        self._tail.close()
        if self._db is not None:
            self._db.close()


def _opened(path: Path) -> sqlite3.Connection:
    check_files(path)
    uri = f"{path.absolute().as_uri()}?mode=ro"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    try:
        format_of(db, path)
    except (sqlite3.Error, JournalError):
        db.close()
        raise
    return db
