"""The files of a journal's history that have to stay where they are."""

from __future__ import annotations

import os
from pathlib import Path

from fractal_rm.adapters.still_there import StillThere


def files_of(path: Path) -> StillThere:
    """As they are now, after something was written; they must be open. Raises OSError.

    They are three. SQLite puts its log (``-wal``) and the index of that (``-shm``) beside the file
    that links lead to; it opens no log that is a link itself. Who comes after the index was deleted
    makes a new one, does not see that this process writes, and writes over it.
    """
    there = StillThere()
    linked = path.is_symlink()
    real = path.resolve() if linked else path.absolute()
    for end in ("", "-wal", "-shm"):
        there.add(f"{real}{end}")
    if linked:
        there.add(str(path.absolute()), os.stat)
    return there
