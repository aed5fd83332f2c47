"""What is damaged is kept under another name, and what was made of it takes its place."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from fractal_rm.config.whole_file import sync_file, sync_folder


def bring_in_wal(old: sqlite3.Connection) -> None:
    """So that the damaged file is whole in itself; where that fails, its -wal file goes with it."""
    try:
        old.commit()
        old.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.DatabaseError:
        return


def put_in_place(real: Path, new: Path, aside: Path) -> None:
    """The damaged file has both names until the new one has taken its own."""
    sync_file(new)
    os.link(real, aside)
    for file, kept in zip(beside(real), beside(aside), strict=True):
        if file.exists():
            file.rename(kept)  # of another file it would be brought into the new one
    new.rename(real)
    sync_folder(real.parent)


def beside(file: Path) -> list[Path]:
    """The files that SQLite puts beside one."""
    return [file.with_name(f"{file.name}{end}") for end in ("-wal", "-shm")]


def free_name(real: Path) -> Path:
    """Under which it can be kept: nothing has this name yet."""
    names = (real.with_name(f"{real.name}.damaged-{n}") for n in range(1, 1_000_000))
    return next(name for name in names if not name.exists())
