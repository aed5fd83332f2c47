"""The files of a history that must not be deleted, renamed or replaced while it is open."""

from __future__ import annotations

import os
from pathlib import Path

from fractal_rm.adapters.open_file_check import OpenFileCheck


def watch_files(path: Path) -> OpenFileCheck:
    """Watch the three files of an open history, after something was written. Raises OSError.

    SQLite puts its log (``-wal``) and the index of that log (``-shm``) next to the file that links
    lead to, and opens no log that is a link. The index is watched too: if it is deleted, the next
    program makes a new one, does not see the locks of this process, and overwrites its data.
    """
    watched = OpenFileCheck()
    linked = path.is_symlink()
    real = path.resolve() if linked else path.absolute()
    for end in ("", "-wal", "-shm"):
        watched.add(f"{real}{end}")
    if linked:
        watched.add(str(path.absolute()), os.stat)
    return watched
