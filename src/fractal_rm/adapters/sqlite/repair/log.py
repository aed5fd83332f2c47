"""Copy what can be read of a log into the repaired history, and keep the old log.

The repaired history continues with a new segment, after all that exist. So the old log ends when
the repaired history takes the place of the damaged one, by one rename. Before the rename, the files
of the log are copied; after it, each file replaces its copy. If the process is killed at any point,
the journal can be started, or repaired again.
"""

from __future__ import annotations

import secrets
import shutil
import sqlite3
from contextlib import closing
from errno import EINVAL, EIO, EISDIR, ELOOP, ENOENT
from functools import partial
from pathlib import Path

from fractal_rm.adapters.log.blob_folder import FolderBlobs, blob_folder
from fractal_rm.adapters.log.disk import FolderDisk, log_folder
from fractal_rm.adapters.log.history import Projected
from fractal_rm.adapters.log.rejoin import Rejoined, rejoin
from fractal_rm.adapters.log.segments import create_first_segment
from fractal_rm.adapters.log.survey import Survey, survey
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.row_sums import add_row_sum
from fractal_rm.adapters.sqlite.read.history_before_log import history_before_log
from fractal_rm.adapters.sqlite.repair.files import free_name
from fractal_rm.adapters.sqlite.verify.blobs import why_lost
from fractal_rm.adapters.sqlite.write.limits import HistoryLimits
from fractal_rm.adapters.sqlite.write.store import HistoryStore
from fractal_rm.config.durable_files import sync_file, sync_folder
from fractal_rm.config.regular_file import stat_regular

POSITION_LOST = "what was in the log only: the history does not say which part it contains"
_KEEP = HistoryLimits(0, 0, 0, 0)  # not used: nothing is dropped here


class LogRepair:
    """The log of one journal. ``had``: the position in its history; None: it is lost."""

    @classmethod
    def of(cls, path: Path, had: Projected | None) -> LogRepair | None:
        """None if the journal has no log yet."""
        return None if had == (0, 0) and not log_folder(path).exists() else cls(path, had)

    def __init__(self, path: Path, had: Projected | None) -> None:
        self._had = had
        self._folder = log_folder(path).resolve()  # its copy is next to it, even if this is a link
        self._disk = FolderDisk(self._folder)
        self._blobs = FolderBlobs(blob_folder(path))
        self._names: list[str] = []
        self.kept_as = free_name(self._folder)

    def write_into(self, history: Path) -> list[str]:
        """Write the valid content into a history that no process uses; returns what is lost.

        Raises JournalError, sqlite3.Error, OSError.
        """
        self._disk.make()
        self._names = self._disk.names()
        had = self._had or Projected(0, 0)
        found = survey(self._disk, had.all, self._blobs, had.ended)
        if self._had is None:
            found.parts, found.gaps = [[], []], []
        position = create_first_segment(self._disk, found.newest + 2, secrets.randbits(64))
        self._disk.close()
        with closing(sqlite3.connect(history, isolation_level=None)) as db:
            add_row_sum(db)
            rejoined = rejoin(
                found.parts, history_before_log(db, had.ended), partial(why_lost, self._blobs)
            )
            _count_losses(db, found, rejoined)
        _project(history, rejoined, position)
        return _gone(found, rejoined, position_known=self._had is not None)

    def copy(self) -> None:
        """Copy the files of the log, which the next start may overwrite or reuse."""
        unfinished = self.kept_as.with_name(f"{self.kept_as.name}.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        for name in self._names:
            _copy(self._folder / name, unfinished / name)
        sync_folder(unfinished)
        unfinished.rename(self.kept_as)
        sync_folder(self.kept_as.parent)

    def move(self) -> None:
        """Replace each copy by the file itself."""
        for name in self._names:
            (self._folder / name).rename(self.kept_as / name)
        sync_folder(self.kept_as)
        sync_folder(self._folder)


def _copy(file: Path, copy: Path) -> None:
    """Copy a file; skip what a start cannot overwrite: other types of files, broken links."""
    try:
        stat_regular(file)
        shutil.copy2(file, copy)
        sync_file(copy)
    except OSError as error:
        if error.errno not in (EINVAL, EISDIR, ENOENT, ELOOP, EIO):
            raise


def _project(history: Path, rejoined: Rejoined, position: int) -> None:
    store = HistoryStore(history, lambda: _KEEP, monotonic_s=lambda: 0.0)
    try:
        store.open()
        try:
            store.project(rejoined.updates, Projected(position, position))
        finally:
            store.close(clean=False)
    finally:
        history.with_suffix(".lock").unlink(missing_ok=True)


def _count_losses(db: sqlite3.Connection, found: Survey, rejoined: Rejoined) -> None:
    """Add to the counts of lost places of the log, and of runs that lack facts, for `audit`."""
    losses = {
        "lost_places": len(found.parts) - 1 + rejoined.undecodable,
        "lost_runs": rejoined.incomplete_runs,
    }
    for name, more in filter(lambda loss: loss[1], losses.items()):
        (before,) = db.execute(statements.READ_META, (name,)).fetchone() or (0,)
        db.execute(statements.SET_META, {"name": name, "value": before + more})


def _gone(found: Survey, rejoined: Rejoined, *, position_known: bool) -> list[str]:
    gone = [str(gap) for gap in found.gaps] if position_known else [POSITION_LOST]
    if rejoined.undecodable:
        gone.append(f"{rejoined.undecodable} frames of the log, which this release cannot decode")
    gone += rejoined.lost
    gone += [f"perhaps facts of run {run_id}; it ends as unknown" for run_id in rejoined.unknown]
    gone += [
        f"the first facts of run {run_id}; it is set aside as dead"
        for run_id in rejoined.without_beginning
    ]
    return gone + [f"perhaps facts of run {run_id}; its end is known" for run_id in rejoined.ended]
