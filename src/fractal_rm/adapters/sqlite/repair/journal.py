"""Repair a damaged journal: a new file replaces it, and the damaged files are kept.

The new file is made next to the damaged one. It gets the readable content of the history and of the
log, then it takes the name of the damaged file.
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
from fractal_rm.adapters.sqlite.format.row_sums import add_row_sum, decode_damaged
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
    """The result. ``rebuilt`` runs had no valid row; ``gone`` says what is lost.

    The damaged files: ``kept_as`` is the history, ``log_kept_as`` the log (None: there was none),
    ``blobs_kept_as`` the blobs that no run of the new history has (None: there are none).
    """

    journal: str
    kept_as: str
    runs: int = 0
    rebuilt: int = 0
    gone: list[str] = []
    log_kept_as: str | None = None
    blobs_kept_as: str | None = None


def repair(path: Path) -> RepairReport:
    """Repair a journal, with its log, while no process uses it.

    Raises JournalInUse; JournalDamaged if nothing of it can be read; JournalError.
    """
    try:
        lock = FileLock(path.with_suffix(".lock"))
    except LockHeld as held:
        raise JournalInUse(f"{path} is in use by process {held.by}; stop that one first") from None
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
        closing(sqlite3.connect(real)) as old,
        closing(sqlite3.connect(new, isolation_level=None)) as made,
    ):
        old.text_factory = decode_damaged
        add_row_sum(old)
        add_row_sum(made)
        found = format_of(old, path)
        add_views_of_old_format(old, found)
        made.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        create(made)
        made.execute("BEGIN")
        history = NewHistory(made)
        rebuild = Rebuild(old, found, history, FolderBlobs(blob_folder(path)))
        rebuild.copy()
        made.execute("COMMIT")
        made.execute("PRAGMA journal_mode = WAL")
        report.runs, report.rebuilt = history.runs, rebuild.runs.rebuilt
        report.gone = rebuild.gone
        log = LogRepair.of(path, rebuild.projected)
        if log is not None:
            report.gone += log.write_into(new)
            report.log_kept_as = str(log.kept_as)
            (report.runs,) = made.execute("SELECT count(*) FROM runs").fetchone()
        if report.runs == 0 and report.gone:
            raise damaged(path, "has no run that can be read")
        report.blobs_kept_as = keep_unused(path, made)
        made.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        checkpoint_wal(old)
    if log is not None:
        log.copy()
    replace_file(real, new, kept_as)
    if log is not None:
        log.move()
    return report
