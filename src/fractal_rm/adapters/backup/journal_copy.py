"""Copies a journal while its process may write to it.

1. Link or copy the blobs.
2. Begin a read transaction on the history, and read the log from the position that the history has
   reached. Together, they have everything that was written until now.
3. Copy the pages of the history, while the transaction shows them unchanged.
4. Write the part of the log into this copy, as a start does. So values that are not kept (KEEP,
   MASK) are left out.
5. Write the content into a new file, without the pages that are not used any more.

If a blob was deleted between 1 and 2, because its run ended or was dropped, begin again.
"""

from __future__ import annotations

import secrets
import sqlite3
from contextlib import closing
from pathlib import Path

from fractal_rm.adapters.log.blob_folder import FolderBlobs, blob_folder
from fractal_rm.adapters.log.disk import FolderDisk, log_folder
from fractal_rm.adapters.log.history import Projected
from fractal_rm.adapters.log.replay import updates_in
from fractal_rm.adapters.log.segments import (
    PlacedBody,
    SegmentReleased,
    bodies_since,
    create_first_segment,
    segment_number_at,
)
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.meta import read_projected
from fractal_rm.adapters.sqlite.format.prepare import check_files, format_of
from fractal_rm.adapters.sqlite.format.schema import FORMAT
from fractal_rm.adapters.sqlite.write.limits import HistoryLimits
from fractal_rm.adapters.sqlite.write.store import HistoryStore
from fractal_rm.config.durable_files import sync_file, sync_folder
from fractal_rm.domain.backup import BackedUpJournal, BackupFailed

TRIES = 10
_NO_LIMITS = HistoryLimits(0, 0, 0, 0)


class _Changed(Exception):
    """The process of the journal has deleted a file that the copy needs."""


def copy_journal(path: Path, folder: Path) -> BackedUpJournal:
    """Copy the journal ``path`` into a folder, which has no such journal. Verifies the copy.

    Raises BackupFailed, JournalError, sqlite3.Error, OSError.
    """
    blobs = FolderBlobs(blob_folder(folder / path.name))
    try:
        for _ in range(TRIES):
            copied = _try_to_copy(path, folder, blobs)
            if copied is not None:
                return copied
    finally:
        blobs.close()
    raise BackupFailed(
        f"{path} changed too fast: {TRIES} times, a file was deleted before it was copied. Try"
        " again when the node has less to do, or after `fractal-rm pause --all`"
    )


def _try_to_copy(path: Path, folder: Path, blobs: FolderBlobs) -> BackedUpJournal | None:
    try:
        return _copy_once(path, folder, blobs)
    except (_Changed, SegmentReleased):
        _remove_copy(folder / path.name)
        return None


def _copy_once(path: Path, folder: Path, blobs: FolderBlobs) -> BackedUpJournal:
    raw = folder / "raw" / path.name
    raw.parent.mkdir()
    _link_blobs(path, blobs)
    positions, bodies = _copy_pages(path, raw)
    _link_blobs(path, blobs)  # those that were written since the first time
    _write_log_into(raw, folder / path.name, blobs, positions, bodies)
    copy = folder / path.name
    with closing(sqlite3.connect(raw, isolation_level=None)) as db:
        used = {name for (name,) in db.execute(statements.BLOB_NAMES)}
        db.execute("VACUUM INTO ?", (str(copy),))
    existing = set(blobs.names())
    if used - existing and _are_in(path, used - existing):
        raise _Changed
    for name in existing - used:
        blobs.delete(name)
    _remove_folder(raw.parent)
    blobs.sync(sorted(used & existing))
    copy.chmod(0o600)
    sync_file(copy)
    sync_folder(folder)
    report = check_journal(copy)
    return BackedUpJournal(path.stem, report.runs, report.open_runs, report.problems)


def _link_blobs(path: Path, blobs: FolderBlobs) -> None:
    """Link all blobs of a journal into another folder, or copy them. Skips deleted blobs."""
    source = blob_folder(path)
    files = FolderBlobs(source)
    linked = set(blobs.names())
    for name in files.names():
        if name not in linked:
            try:
                blobs.link_or_copy(name, source / name)
            except FileNotFoundError:  # its run has ended, or was dropped
                continue
    files.close()


def _are_in(path: Path, names: set[str]) -> bool:
    """Whether blobs were lost while they were copied, and not before: the journal lacks their rows.

    If the journal still refers to them, they were lost earlier, and the copy has the same damage.
    """
    with closing(_connect(path)) as db:
        still_used = {name for (name,) in db.execute(statements.BLOB_NAMES)}
    return not names <= still_used


def _connect(path: Path) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, timeout=5, isolation_level=None)


def _copy_pages(path: Path, raw: Path) -> tuple[Projected, list[PlacedBody]]:
    """Copy the file of the history. Returns its positions, and the log from there on.

    Raises SegmentReleased if the log went on too fast.
    """
    check_files(path)
    with closing(_connect(path)) as db, closing(sqlite3.connect(raw)) as copy:
        db.execute("BEGIN")
        if format_of(db, path) != FORMAT:
            raise BackupFailed(f"{path} was written by an older release: start the node once")
        positions = read_projected(db)
        if positions is None:
            raise BackupFailed(f"{path} is damaged: run `fractal-rm journal check`")
        folder = log_folder(path)
        bodies = bodies_since(FolderDisk(folder), positions.all) if folder.exists() else []
        db.backup(copy)
    raw.chmod(0o600)
    return positions, bodies


def _write_log_into(
    raw: Path, copy: Path, blobs: FolderBlobs, positions: Projected, bodies: list[PlacedBody]
) -> None:
    """Write a part of the log into the copied history, and begin a new log."""
    store = HistoryStore(raw, lambda: _NO_LIMITS, blobs=_Kept(blobs), monotonic_s=lambda: 0.0)
    store.open()
    try:
        updates = updates_in(bodies, store.run_of, positions.ended, store.flow_body)
        newest = max([positions.all, positions.ended, *(end for _, end in bodies)])
        disk = FolderDisk(log_folder(copy))
        disk.make()
        first = create_first_segment(disk, segment_number_at(newest) + 1, secrets.randbits(64))
        disk.close()
        store.project(updates, Projected(first, first))
    finally:
        store.close(clean=False)


class _Kept(FolderBlobs):
    """Blobs that may only be read: the copy of the journal decides at the end which are unused."""

    def __init__(self, blobs: FolderBlobs) -> None:
        super().__init__(Path(blobs.where))

    def delete(self, name: str) -> None:
        """Do nothing."""


def _remove_copy(path: Path) -> None:
    path.unlink(missing_ok=True)
    _remove_folder(path.parent / "raw")
    _remove_folder(log_folder(path))


def _remove_folder(folder: Path) -> None:
    if folder.exists():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
