"""Write the readable content of a log into the repaired history, and keep the old log.

The repaired history contains the position of a new segment, which is after all existing segments.
So with the repaired history, the old log is not used any more. The repair ends with three steps:

1. Copy the files of the log.
2. Rename the repaired history, so that it replaces the damaged one.
3. Move each file of the log to the place of its copy.

If the process is killed at any time, the node can be started, or the repair can be repeated.
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
from fractal_rm.adapters.sqlite.format.row_sums import register_row_sum
from fractal_rm.adapters.sqlite.read.history_before_log import history_before_log
from fractal_rm.adapters.sqlite.repair.files import free_name
from fractal_rm.adapters.sqlite.verify.blobs import loss_reason
from fractal_rm.adapters.sqlite.write.limits import HistoryLimits
from fractal_rm.adapters.sqlite.write.store import HistoryStore
from fractal_rm.config.durable_files import sync_file, sync_folder
from fractal_rm.config.regular_file import stat_regular

POSITION_LOST = "runs that are in the log only: the position in the log is missing in the history"
# Not used, because a repair drops no runs.
_NO_LIMITS = HistoryLimits(age_s=0, max_bytes=0, failed_s=0, failed_bytes=0)


class LogRepair:
    """The log of one journal. ``positions`` are those in its history; None if they are lost."""

    @classmethod
    def of(cls, path: Path, positions: Projected | None) -> LogRepair | None:
        """Return the log of a journal; None if the journal has no log yet."""
        has_log = positions != Projected(all=0, ended=0) or log_folder(path).exists()
        return cls(path, positions) if has_log else None

    def __init__(self, path: Path, positions: Projected | None) -> None:
        self._positions = positions
        # If the folder is a link, its target is used, so that the copy is next to the target.
        self._folder = log_folder(path).resolve()
        self._disk = FolderDisk(self._folder)
        self._blobs = FolderBlobs(blob_folder(path))
        self._names: list[str] = []
        self.kept_as = free_name(self._folder)

    def write_into(self, history: Path) -> list[str]:
        """Write the valid content into the new history. Returns messages about what is lost.

        Raises JournalError, sqlite3.Error, OSError.
        """
        self._disk.make()
        self._names = self._disk.names()
        positions = self._positions or Projected(all=0, ended=0)
        log = survey(self._disk, positions.all, self._blobs, positions.ended)
        if self._positions is None:  # drop the whole log; between the two empty parts is a gap
            log.parts, log.gaps = [[], []], []
        position = create_first_segment(self._disk, log.newest + 2, secrets.randbits(64))
        self._disk.close()
        with closing(sqlite3.connect(history, isolation_level=None)) as db:
            register_row_sum(db)
            rejoined = rejoin(
                log.parts,
                history_before_log(db, positions.ended),
                partial(loss_reason, self._blobs),
            )
            _count_losses(db, log, rejoined)
        _project(history, rejoined, position)
        return _losses(log, rejoined, position_known=self._positions is not None)

    def copy(self) -> None:
        """Copy the files of the log, as the next start may overwrite them."""
        unfinished = self.kept_as.with_name(f"{self.kept_as.name}.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        for name in self._names:
            _copy(self._folder / name, unfinished / name)
        sync_folder(unfinished)
        unfinished.rename(self.kept_as)
        sync_folder(self.kept_as.parent)

    def move(self) -> None:
        """Move each file of the log to the place of its copy."""
        for name in self._names:
            (self._folder / name).rename(self.kept_as / name)
        sync_folder(self.kept_as)
        sync_folder(self._folder)


def _copy(file: Path, copy: Path) -> None:
    """Copy a regular file. Skip other files, as a start does not overwrite them."""
    try:
        stat_regular(file)
        shutil.copy2(file, copy)
        sync_file(copy)
    except OSError as error:
        if error.errno not in (EINVAL, EISDIR, ENOENT, ELOOP, EIO):
            raise


def _project(history: Path, rejoined: Rejoined, position: int) -> None:
    store = HistoryStore(history, lambda: _NO_LIMITS, monotonic_s=lambda: 0.0)
    try:
        store.open()
        try:
            store.project(rejoined.updates, Projected(all=position, ended=position))
        finally:
            store.close(clean=False)
    finally:
        history.with_suffix(".lock").unlink(missing_ok=True)


def _count_losses(db: sqlite3.Connection, log: Survey, rejoined: Rejoined) -> None:
    """Add the lost places of the log and the incomplete runs to the counts for `audit`."""
    losses = {
        "lost_places": len(log.parts) - 1 + rejoined.undecodable,
        "lost_runs": rejoined.incomplete_runs,
    }
    for name, count in losses.items():
        if count:
            (old_count,) = db.execute(statements.READ_META, (name,)).fetchone() or (0,)
            db.execute(statements.SET_META, {"name": name, "value": old_count + count})


def _losses(log: Survey, rejoined: Rejoined, *, position_known: bool) -> list[str]:
    losses = [str(gap) for gap in log.gaps] if position_known else [POSITION_LOST]
    if rejoined.undecodable:
        losses.append(f"{rejoined.undecodable} frames of the log, which this release cannot decode")
    losses += rejoined.lost
    losses += [
        f"perhaps some facts of run {run_id}, which ends as unknown" for run_id in rejoined.unknown
    ]
    losses += [
        f"the first facts of run {run_id}, which is set aside as dead"
        for run_id in rejoined.without_beginning
    ]
    losses += [
        f"perhaps some facts of run {run_id}, whose end is known" for run_id in rejoined.ended
    ]
    return losses
