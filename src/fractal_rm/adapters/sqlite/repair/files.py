"""Put the repaired file in the place of the damaged one, which is kept under another name."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from fractal_rm.config.durable_files import sync_file, sync_folder


def checkpoint_wal(old: sqlite3.Connection) -> None:
    """Copy the -wal file into the damaged file. If that fails, the -wal file is kept too."""
    try:
        old.commit()
        old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.DatabaseError:
        return


def replace_file(real: Path, new: Path, kept_as: Path) -> None:
    """Replace ``real`` by ``new``. The damaged file gets its second name first."""
    sync_file(new)
    os.link(real, kept_as)
    for file, kept in zip(wal_files(real), wal_files(kept_as), strict=True):
        if file.exists():
            file.rename(kept)  # SQLite would apply it to the new file
    new.rename(real)
    sync_folder(real.parent)


def wal_files(file: Path) -> list[Path]:
    """The files that SQLite puts next to a database."""
    return [file.with_name(f"{file.name}{end}") for end in ("-wal", "-shm")]


def free_name(real: Path) -> Path:
    """A path next to it, to keep it under, at which nothing exists."""
    names = (real.with_name(f"{real.name}.damaged-{n}") for n in range(1, 1_000_000))
    return next(name for name in names if not name.exists())
