"""Make a journal's file, or take over the one that is there."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from fractal_rm.adapters.sqlite import schema
from fractal_rm.adapters.sqlite.causes import damaged
from fractal_rm.adapters.sqlite.migrations import create, migrate
from fractal_rm.config.regular_file import NotRegular, stat_regular
from fractal_rm.config.whole_file import sync_folder
from fractal_rm.domain.journal_errors import JournalDamaged, JournalTooNew, JournalTooOld

PAGE_BYTES = 4096  # a small commit writes each page that it touches: what wears flash out
WAL_BYTES = 4 * 1024 * 1024  # so much is gathered in the log before it goes into the file
# A run's row is written again when it ends, and by then thousands of others may have come: what was
# written is kept for that, or each end would read two pages back.
CACHE_KIB = 16 * 1024
WAL_KEPT_BYTES = 64 * 1024 * 1024


def check_files(path: Path) -> None:
    """Look at the files of a journal before SQLite does. Raises JournalDamaged, OSError.

    SQLite waits for who writes into a FIFO, and deletes a log whose database is empty.
    """
    real = os.path.realpath(path)
    size, wal_size, _ = [_size(path, Path(f"{real}{end}")) for end in ("", "-wal", "-shm")]
    if wal_size and not size:
        raise damaged(path, "is empty, or not there, while its -wal file has runs: put it back")


def _size(journal: Path, file: Path) -> int:
    try:
        return stat_regular(file).st_size
    except FileNotFoundError:
        return 0
    except (NotRegular, IsADirectoryError) as error:
        raise damaged(journal, f"cannot be read ({file}: {error.strerror})") from error


def prepare(db: sqlite3.Connection, path: Path, synchronous: str) -> None:
    """Bring the file into the form that this release writes. Raises JournalError, sqlite3.Error.

    What another program or another release has made, and this one cannot go on with, is left as
    it is.
    """
    created = not _one(db, "SELECT count(*) FROM sqlite_master")
    found = schema.FORMAT if created else format_of(db, path)
    for pragma in (
        f"page_size = {PAGE_BYTES}",
        f"wal_autocheckpoint = {WAL_BYTES // PAGE_BYTES}",
        "journal_mode = WAL",
        f"synchronous = {synchronous}",
        f"journal_size_limit = {WAL_KEPT_BYTES}",
        "temp_store = MEMORY",
        f"cache_size = -{CACHE_KIB}",
    ):
        db.execute(f"PRAGMA {pragma}")
    if created:
        create(db)
        sync_folder(path.resolve().parent)  # of where links lead to
    else:
        migrate(db, found)


def format_of(db: sqlite3.Connection, path: Path) -> int:
    """The format of a journal that this release can read. Raises JournalError."""
    if not _one(db, "SELECT count(*) FROM sqlite_master"):
        raise JournalDamaged(f"{path} has nothing in it; the next start of its node begins it anew")
    if _one(db, "PRAGMA application_id") != schema.APPLICATION_ID:
        raise JournalDamaged(
            f"{path} is a database of another program; move it away, or set state.path"
            " in comm.conf to another folder"
        )
    found: int = _one(db, "PRAGMA user_version")
    if found > schema.FORMAT:
        raise JournalTooNew(
            f"{path} was written by a newer release (format {found}, this one reads"
            f" {schema.FORMAT}); start that release again, or set state.path in comm.conf to"
            " an empty folder"
        )
    if found < schema.OLDEST:
        raise JournalTooOld(
            f"{path} was written before the first release (format {found}, this one reads"
            f" {schema.FORMAT}); finish its runs with the program that wrote it, and move it"
            " and its -wal file away"
        )
    return found


def _one(db: sqlite3.Connection, statement: str) -> int:
    value: int = db.execute(statement).fetchone()[0]
    return value
