"""Bring what can be read of a log into a history that is made again, and keep the log aside.

The new history goes on from a segment that is begun for it, behind all that there are: so it is the
one rename of the history that ends with the old log. Before that, what is in the folder is copied;
after it, each file takes the place of its copy. Who is killed in between leaves a journal that
starts, or one that is repaired again as if nothing had been done.
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
from fractal_rm.adapters.log.segments import begin_alone
from fractal_rm.adapters.log.survey import Survey, survey
from fractal_rm.adapters.sqlite import statements
from fractal_rm.adapters.sqlite.aside import free_name
from fractal_rm.adapters.sqlite.before_log import history_in
from fractal_rm.adapters.sqlite.repair_blobs import why_lost
from fractal_rm.adapters.sqlite.retention import Keep
from fractal_rm.adapters.sqlite.store import HistoryStore
from fractal_rm.adapters.sqlite.sums import add_row_sum
from fractal_rm.config.regular_file import stat_regular
from fractal_rm.config.whole_file import sync_file, sync_folder

UNKNOWN_PLACE = "what the log had and the history had not: how far it was is not known"
_KEEP = Keep(0, 0, 0, 0)  # nothing is dropped here


class LogRepair:
    """The log of one journal. ``had``: how far the history has it; None: it does not say."""

    @classmethod
    def of(cls, path: Path, had: Projected | None) -> LogRepair | None:
        """None: there is no log, as no process has begun one yet."""
        return None if had == (0, 0) and not log_folder(path).exists() else cls(path, had)

    def __init__(self, path: Path, had: Projected | None) -> None:
        self._had = had
        self._folder = log_folder(path).resolve()  # its copy is beside it, whatever leads here
        self._disk = FolderDisk(self._folder)
        self._blobs = FolderBlobs(blob_folder(path))
        self._names: list[str] = []
        self.kept_as = free_name(self._folder)

    def bring_into(self, history: Path) -> list[str]:
        """Write all that holds into a history that nobody else has; returns what is gone.

        Raises JournalError, sqlite3.Error, OSError.
        """
        self._disk.make()
        self._names = self._disk.names()
        had = self._had or Projected(0, 0)
        found = survey(self._disk, had.all, self._blobs, had.ended)
        if self._had is None:
            found.parts, found.gaps = [[], []], []
        position = begin_alone(self._disk, found.newest + 2, secrets.randbits(64))
        self._disk.close()
        with closing(sqlite3.connect(history, isolation_level=None)) as db:
            add_row_sum(db)
            rejoined = rejoin(
                found.parts, history_in(db, had.ended), partial(why_lost, self._blobs)
            )
            _note_losses(db, found, rejoined)
        _project(history, rejoined, position)
        return _gone(found, rejoined, knows_place=self._had is not None)

    def copy_aside(self) -> None:
        """Copy what can be used again, or written over, as soon as the new history is in place."""
        unfinished = self.kept_as.with_name(f"{self.kept_as.name}.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        for name in self._names:
            _copy(self._folder / name, unfinished / name)
        sync_folder(unfinished)
        unfinished.rename(self.kept_as)
        sync_folder(self.kept_as.parent)

    def move_aside(self) -> None:
        """Put each file in the place of its copy."""
        for name in self._names:
            (self._folder / name).rename(self.kept_as / name)
        sync_folder(self.kept_as)
        sync_folder(self._folder)


def _copy(file: Path, copy: Path) -> None:
    """But for what nobody writes over: what is no file, leads nowhere, or cannot be read."""
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
            store.project(rejoined.stories, Projected(position, position))
        finally:
            store.close(clean=False)
    finally:
        history.with_suffix(".lock").unlink(missing_ok=True)


def _note_losses(db: sqlite3.Connection, found: Survey, rejoined: Rejoined) -> None:
    """For the accounts: so many places of the log are gone, and so many runs are not whole."""
    losses = {
        "lost_places": len(found.parts) - 1 + rejoined.unread,
        "lost_runs": rejoined.touched,
    }
    for name, more in filter(lambda loss: loss[1], losses.items()):
        (before,) = db.execute(statements.READ_NOTE, (name,)).fetchone() or (0,)
        db.execute(statements.NOTE, {"name": name, "value": before + more})


def _gone(found: Survey, rejoined: Rejoined, *, knows_place: bool) -> list[str]:
    gone = [str(gap) for gap in found.gaps] if knows_place else [UNKNOWN_PLACE]
    if rejoined.unread:
        gone.append(f"{rejoined.unread} frames of the log, which this release cannot read")
    gone += rejoined.lost
    gone += [f"what else run {run_id} has done; it ends as unknown" for run_id in rejoined.unknown]
    gone += [
        f"the beginning of run {run_id}; it is set aside as dead" for run_id in rejoined.headless
    ]
    return gone + [
        f"maybe something of run {run_id}; how it ended is known" for run_id in rejoined.ended
    ]
