"""Find runs in the other journals of a state folder, even if they are only in their logs."""

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
    """Reads the journals in the folder of the journal ``own_path``, except that journal.

    Connections stay open between calls. A journal that cannot be read is treated as empty until its
    file changes or is replaced.
    """

    def __init__(self, own_path: Path) -> None:
        self._own_path = own_path
        self._folder_ns = -1  # the modification time of the folder when it was last listed
        self._paths: list[Path] = []
        self._open: dict[Path, _OtherHistory] = {}

    def find(self, queries: Sequence[KeyQuery]) -> list[ExistingRun | None]:
        """Find a run for each query; see `find_runs`. The states of runs may be seconds old.

        Reads one journal after the other until all runs are found.
        """
        runs: list[ExistingRun | None] = [None] * len(queries)
        for path in self._others():
            missing = [index for index, run in enumerate(runs) if run is None]
            if not missing:
                break
            new_runs = self._find(path, [queries[index] for index in missing])
            for index, run in zip(missing, new_runs, strict=True):
                runs[index] = run
        return runs

    def close(self) -> None:
        """Close all files."""
        for path in list(self._open):
            self._close(path)

    def _others(self) -> list[Path]:
        folder = self._own_path.parent
        try:
            changed_ns = folder.stat().st_mtime_ns
            if changed_ns != self._folder_ns:
                self._folder_ns = changed_ns
                self._paths = [path for path in folder.glob("*.journal") if path != self._own_path]
                for path in self._open.keys() - set(self._paths):
                    self._close(path)
        except OSError:
            self._paths = []
        return self._paths

    def _find(self, path: Path, queries: Sequence[KeyQuery]) -> list[ExistingRun | None]:
        try:
            status = path.stat()
            other = self._open.get(path)
            if other is None or not other.is_current(status):
                self._close(path)
                other = self._open[path] = _OtherHistory(path, status)
            return other.find(queries)
        except (OSError, sqlite3.Error, JournalError, ValueError):  # ValueError: an unknown state
            return [None] * len(queries)

    def _close(self, path: Path) -> None:
        other = self._open.pop(path, None)
        if other is not None:
            other.close()


class _OtherHistory:
    """One other journal, opened read-only."""

    def __init__(self, path: Path, status: os.stat_result) -> None:
        self._inode = status.st_dev, status.st_ino
        self._changed_ns = status.st_mtime_ns
        self._tail = Tail(log_folder(path))
        try:
            self._db: sqlite3.Connection | None = _opened(path)
        except (OSError, sqlite3.Error, JournalError):
            self._db = None

    def is_current(self, status: os.stat_result) -> bool:
        """Return whether the open file is still the journal.

        For a journal that could not be read, the file must also be unchanged.
        """
        if self._db is None and status.st_mtime_ns != self._changed_ns:
            return False
        return self._inode == (status.st_dev, status.st_ino)

    def find(self, queries: Sequence[KeyQuery]) -> list[ExistingRun | None]:
        """Find a run for each query, in the history or the log.

        The log is read first. If a run is copied into the history meanwhile, it is found there.
        """
        if self._db is None:
            return [None] * len(queries)
        self._read_log(self._db)
        in_log = [self._tail.find(each) for each in queries]
        self._db.execute("BEGIN")  # one transaction: SQLite locks the file only once
        try:
            in_history = find_runs(self._db, queries)
        finally:
            self._db.execute("COMMIT")
        return [run or logged for run, logged in zip(in_history, in_log, strict=True)]

    def _read_log(self, db: sqlite3.Connection) -> None:
        """Read the log to its end. If segments are reused meanwhile, reading starts again."""
        last_positions = None
        while True:
            positions = read_projected(db)
            if positions is None or positions == last_positions:  # None: a format without a log
                return
            last_positions = positions
            with suppress(JournalDamaged, FileNotFoundError):
                self._tail.read_new(positions.all)
                return

    def close(self) -> None:
        """Close the files of the journal."""
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
