"""Create a journal's file, or migrate an existing one."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from fractal_rm.adapters.sqlite.errors import damaged
from fractal_rm.adapters.sqlite.format import schema
from fractal_rm.adapters.sqlite.format.migrations import create, migrate
from fractal_rm.config.durable_files import sync_folder
from fractal_rm.config.regular_file import NotRegular, stat_regular
from fractal_rm.domain.journal_errors import JournalDamaged, JournalTooNew, JournalTooOld

PAGE_BYTES = 4096  # small: a commit writes each changed page in full, which wears flash
WAL_BYTES = 4 * 1024 * 1024  # at this size of the -wal file, SQLite copies it into the journal file
# The row of a run is written again when the run ends, perhaps after thousands of other runs. The
# cache is so large that the page with the row need not be read from the file again.
CACHE_KIB = 16 * 1024
WAL_FILE_BYTES = 64 * 1024 * 1024  # a checkpoint truncates a larger -wal file to this size


def check_files(path: Path) -> None:
    """Check the files of a journal before SQLite opens them. Raises JournalDamaged, OSError.

    If a file was a FIFO, SQLite would wait for a writer. If the database was empty, SQLite would
    delete its -wal file.
    """
    real = os.path.realpath(path)
    size, wal_size, _ = [_size(path, Path(f"{real}{end}")) for end in ("", "-wal", "-shm")]
    if wal_size and not size:
        raise damaged(
            path, "is empty or missing, while its -wal file has runs: restore the journal file"
        )


def _size(journal: Path, file: Path) -> int:
    try:
        return stat_regular(file).st_size
    except FileNotFoundError:
        return 0
    except (NotRegular, IsADirectoryError) as error:
        raise damaged(journal, f"cannot be read ({file}: {error.strerror})") from error


def prepare(db: sqlite3.Connection, path: Path, synchronous: str) -> None:
    """Create or migrate the tables. Raises JournalError, sqlite3.Error.

    A file of another program, or of a release that cannot be migrated, is not changed.
    """
    is_new_file = not _value(db, "SELECT count(*) FROM sqlite_master")
    old_format = schema.FORMAT if is_new_file else format_of(db, path)
    for pragma in (
        f"page_size = {PAGE_BYTES}",
        f"wal_autocheckpoint = {WAL_BYTES // PAGE_BYTES}",
        "journal_mode = WAL",
        f"synchronous = {synchronous}",
        f"journal_size_limit = {WAL_FILE_BYTES}",
        "temp_store = MEMORY",
        f"cache_size = -{CACHE_KIB}",
    ):
        db.execute(f"PRAGMA {pragma}")
    if is_new_file:
        create(db)
        sync_folder(path.resolve().parent)  # if the path is a link, the folder of its target
    else:
        migrate(db, old_format)


def format_of(db: sqlite3.Connection, path: Path) -> int:
    """The format of a journal, if this release can read it. Raises JournalError."""
    if not _value(db, "SELECT count(*) FROM sqlite_master"):
        raise JournalDamaged(f"{path} has no tables; the next start of its node creates them")
    if _value(db, "PRAGMA application_id") != schema.APPLICATION_ID:
        raise JournalDamaged(
            f"{path} is a database of another program; move it away, or set state.path"
            " in comm.conf to another folder"
        )
    file_format: int = _value(db, "PRAGMA user_version")
    if file_format > schema.FORMAT:
        raise JournalTooNew(
            f"{path} was written by a newer release (format {file_format}, this one reads"
            f" {schema.FORMAT}); start that release again, or set state.path in comm.conf to"
            " an empty folder"
        )
    if file_format < schema.OLDEST:
        raise JournalTooOld(
            f"{path} was written before the first release (format {file_format}, this one"
            f" reads {schema.FORMAT}); finish its runs with the program that wrote it, and move the"
            " file and its -wal file away"
        )
    return file_format


def _value(db: sqlite3.Connection, statement: str) -> int:
    value: int = db.execute(statement).fetchone()[0]
    return value
