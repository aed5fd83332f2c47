"""Watch the files of an open history: they must not be deleted, renamed or replaced."""

from __future__ import annotations

import os
from pathlib import Path

from fractal_rm.adapters.open_file_check import OpenFileCheck


def watch_files(path: Path) -> OpenFileCheck:
    """Return a check of the three files of an open history. Raises OSError.

    Call this after the first write, when all three files exist. If ``path`` is a link, SQLite puts
    the write-ahead log (``-wal``) and its index (``-shm``) next to the target of the link.

    The index is watched, too: if it is deleted, the next program creates a new index. That program
    does not see the locks of this process, and overwrites the data of this process.
    """
    watched = OpenFileCheck()
    linked = path.is_symlink()
    real = path.resolve() if linked else path.absolute()
    for end in ("", "-wal", "-shm"):
        watched.add(f"{real}{end}")
    if linked:
        watched.add(str(path.absolute()), os.stat)
    return watched
