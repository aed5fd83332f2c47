"""Replace the damaged file by the repaired file, and keep the damaged file under another name."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from fractal_rm.config.durable_files import sync_file, sync_folder


def checkpoint_wal(old: sqlite3.Connection) -> None:
    """Copy the content of the -wal file into the damaged file.

    If this fails, no error is raised: `replace_file` keeps the -wal file, too.
    """
    try:
        old.commit()
        old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.DatabaseError:
        return


def replace_file(real: Path, new: Path, kept_as: Path) -> None:
    """Rename ``new`` to ``real``. The damaged file, which was ``real``, is kept as ``kept_as``."""
    sync_file(new)
    os.link(real, kept_as)
    for file, new_name in zip(wal_files(real), wal_files(kept_as), strict=True):
        if file.exists():
            file.rename(new_name)  # otherwise SQLite would apply this file to the new database
    new.rename(real)
    sync_folder(real.parent)


def wal_files(file: Path) -> list[Path]:
    """Return the paths of the files that SQLite puts next to a database."""
    return [file.with_name(f"{file.name}{end}") for end in ("-wal", "-shm")]


def free_name(real: Path) -> Path:
    """Return an unused path next to ``real``, for a copy of the damaged file or folder."""
    names = (real.with_name(f"{real.name}.damaged-{n}") for n in range(1, 1_000_000))
    return next(name for name in names if not name.exists())
