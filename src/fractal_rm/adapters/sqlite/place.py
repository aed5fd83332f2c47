"""Whether the files that are open are still the ones that the next start will open.

Who deletes or renames a file takes it from nobody who has it open: what is written into it then is
written well, and is not found at the next start.

Three files are a journal. SQLite puts the log (``-wal``) and its index (``-shm``) beside the file
that links lead to; it opens no log that is a link itself. Who comes after the index was deleted
makes a new one, does not see that this process writes, and writes over it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from fractal_rm.domain.errors import JournalGone

Look = Callable[[str], os.stat_result]


class Place:
    """The files of a journal that is open; they stay open, so that no other gets their inodes."""

    def __init__(self, path: Path) -> None:
        """Take them as they are now, after something was written."""
        linked = path.is_symlink()
        real = path.resolve() if linked else path
        looks: dict[str, Look] = {f"{real}{end}": os.lstat for end in ("", "-wal", "-shm")}
        if linked:
            looks[str(path)] = os.stat
        self._there = [(file, look, _inode(file, look)) for file, look in looks.items()]

    def check(self) -> None:
        """Compare; 2 µs a file. Raises JournalGone."""
        for path, look, inode in self._there:
            if _inode(path, look) != inode:
                raise JournalGone(f"{path} is not the file that is open: put that one back")


def _inode(path: str, look: Look) -> tuple[int, int] | None:
    """Device and number of what is at a path; None: there is nothing."""
    try:
        found = look(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
