"""Find runs in the other journals of a state folder, including the ends of their logs."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fractal_rm.adapters.log.disk import log_folder
from fractal_rm.adapters.log.history import KeyQuery
from fractal_rm.adapters.log.tail import Tail
from fractal_rm.adapters.sqlite.format.meta import read_projected
from fractal_rm.adapters.sqlite.format.prepare import check_files, format_of
from fractal_rm.adapters.sqlite.read.by_trigger_id import find_runs
from fractal_rm.domain.journal_errors import JournalDamaged, JournalError
from fractal_rm.engine.ports import ExistingRun


class OtherHistories:
    """The journals next to ``own``, read-only. Connections are kept open.

    A journal that cannot be read counts as empty until its file changes or is replaced.
    """

    def __init__(self, own: Path) -> None:
        self._own = own
        self._folder_ns = -1  # the modification time of the folder when it was last listed
        self._paths: list[Path] = []
        self._open: dict[Path, _OtherHistory] = {}

    def find(self, asked: Sequence[KeyQuery]) -> list[ExistingRun | None]:
        """See `find_runs`. Reads journals until all are found; states may be seconds old."""
        found: list[ExistingRun | None] = [None] * len(asked)
        for path in self._others():
            missing = [at for at, prior in enumerate(found) if prior is None]
            if not missing:
                break
            priors = self._find(path, [asked[at] for at in missing])
            for at, prior in zip(missing, priors, strict=True):
                found[at] = prior
        return found

    def close(self) -> None:
        """Close all files."""
        for path in list(self._open):
            self._close(path)

    def _others(self) -> list[Path]:
        folder = self._own.parent
        try:
            changed_ns = folder.stat().st_mtime_ns
            if changed_ns != self._folder_ns:
                self._folder_ns = changed_ns
                self._paths = [path for path in folder.glob("*.journal") if path != self._own]
                for path in self._open.keys() - set(self._paths):
                    self._close(path)
        except OSError:
            self._paths = []
        return self._paths

    def _find(self, path: Path, asked: Sequence[KeyQuery]) -> list[ExistingRun | None]:
        try:
            found = path.stat()
            other = self._open.get(path)
            if other is None or not other.is_current(found):
                self._close(path)
                other = self._open[path] = _OtherHistory(path, found)
            return other.find(asked)
        except (OSError, sqlite3.Error, JournalError, ValueError):  # ValueError: an unknown state
            return [None] * len(asked)

    def _close(self, path: Path) -> None:
        other = self._open.pop(path, None)
        if other is not None:
            other.close()


class _OtherHistory:
    """One of them, opened."""

    def __init__(self, path: Path, found: os.stat_result) -> None:
        self._inode = found.st_dev, found.st_ino
        self._changed_ns = found.st_mtime_ns
        self._tail = Tail(log_folder(path))
        try:
            self._db: sqlite3.Connection | None = _opened(path)
        except (OSError, sqlite3.Error, JournalError):
            self._db = None

    def is_current(self, found: os.stat_result) -> bool:
        """Whether the file is the same; if it could not be read, also whether it is unchanged."""
        if self._db is None and found.st_mtime_ns != self._changed_ns:
            return False
        return self._inode == (found.st_dev, found.st_ino)

    def find(self, asked: Sequence[KeyQuery]) -> list[ExistingRun | None]:
        """Read the log first: what is projected meanwhile is then found in the history."""
        if self._db is None:
            return [None] * len(asked)
        self._read_log(self._db)
        in_log = [self._tail.find(each) for each in asked]
        self._db.execute("BEGIN")  # one transaction, so that locks are taken once
        try:
            found = find_runs(self._db, asked)
        finally:
            self._db.execute("COMMIT")
        return [prior or late for prior, late in zip(found, in_log, strict=True)]

    def _read_log(self, db: sqlite3.Connection) -> None:
        """Read as far as possible; start again if segments were reused meanwhile."""
        before = None
        while True:
            had = read_projected(db)
            if had is None or had == before:  # None: before format 5 there was no log
                return
            before = had
            with suppress(JournalDamaged, FileNotFoundError):
                self._tail.read_new(had.all)
                return

    def close(self) -> None:
        """Close its files."""
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
