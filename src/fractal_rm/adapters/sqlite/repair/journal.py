"""Repair a damaged journal: a new file replaces it, and the damaged files are kept.

The new file is created next to the damaged file. The readable content of the history and of the log
is written to the new file. Then the new file gets the name of the damaged file.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec

from fractal_rm.adapters.lock import FileLock, LockHeld
from fractal_rm.adapters.log.blob_folder import FolderBlobs, blob_folder
from fractal_rm.adapters.sqlite.errors import damaged, journal_error
from fractal_rm.adapters.sqlite.format.migrations import add_views_of_old_format, create
from fractal_rm.adapters.sqlite.format.prepare import PAGE_BYTES, check_files, format_of
from fractal_rm.adapters.sqlite.format.row_sums import decode_damaged, register_row_sum
from fractal_rm.adapters.sqlite.repair.blobs import keep_unused
from fractal_rm.adapters.sqlite.repair.files import (
    checkpoint_wal,
    free_name,
    replace_file,
    wal_files,
)
from fractal_rm.adapters.sqlite.repair.log import LogRepair
from fractal_rm.adapters.sqlite.repair.new_history import NewHistory
from fractal_rm.adapters.sqlite.repair.rebuild import Rebuild
from fractal_rm.domain.journal_errors import JournalInUse


class RepairReport(msgspec.Struct):
    """The result of a repair.

    ``runs`` is the number of runs in the new history. ``rebuilt`` is the number of invalid rows
    that were rebuilt from the facts of their runs. ``lost`` describes what is lost.

    ``kept_as`` is the path of the damaged history. ``log_kept_as`` is the path of the old log, or
    None if there is no log. ``blobs_kept_as`` is the path of the blobs that the new history does
    not use, or None if there are no such blobs.
    """

    journal: str
    kept_as: str
    runs: int = 0
    rebuilt: int = 0
    lost: list[str] = msgspec.field(default_factory=list, name="gone")
    log_kept_as: str | None = None
    blobs_kept_as: str | None = None


def repair(path: Path) -> RepairReport:
    """Repair a journal with its log. No process may use the journal.

    Raises JournalInUse; JournalDamaged if no part of it can be read; JournalError.
    """
    try:
        lock = FileLock(path.with_suffix(".lock"))
    except LockHeld as error:
        raise JournalInUse(
            f"{path} is in use by process {error.by}; stop that process first"
        ) from None
    try:
        check_files(path)
        return _repair(path)
    except (OSError, sqlite3.Error, UnicodeDecodeError) as error:
        raise journal_error(path, error) from error
    finally:
        lock.release()


def _repair(path: Path) -> RepairReport:
    real = path.resolve()
    new = real.with_name(f"{real.name}.new")
    for file in (new, *wal_files(new)):
        file.unlink(missing_ok=True)
    kept_as = free_name(real)
    report = RepairReport(path.stem, str(kept_as))
    with (
        closing(sqlite3.connect(real)) as old_db,
        closing(sqlite3.connect(new, isolation_level=None)) as new_db,
    ):
        old_db.text_factory = decode_damaged
        register_row_sum(old_db)
        register_row_sum(new_db)
        file_format = format_of(old_db, path)
        add_views_of_old_format(old_db, file_format)
        new_db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        create(new_db)
        new_db.execute("BEGIN")
        history = NewHistory(new_db)
        rebuild = Rebuild(old_db, file_format, history, FolderBlobs(blob_folder(path)))
        rebuild.copy()
        new_db.execute("COMMIT")
        new_db.execute("PRAGMA journal_mode = WAL")
        report.runs, report.rebuilt = history.runs, rebuild.runs.rebuilt
        report.lost = rebuild.lost
        log = LogRepair.of(path, rebuild.positions)
        if log is not None:
            report.lost += log.write_into(new)
            report.log_kept_as = str(log.kept_as)
            (report.runs,) = new_db.execute("SELECT count(*) FROM runs").fetchone()
        if report.runs == 0 and report.lost:
            raise damaged(path, "has no run that can be read")
        report.blobs_kept_as = keep_unused(path, new_db)
        new_db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        checkpoint_wal(old_db)
    if log is not None:
        log.copy()
    replace_file(real, new, kept_as)
    if log is not None:
        log.move()
    return report
