"""Whether the files that are open are still the ones at their paths.

Who deletes or renames a file takes it from nobody who has it open: what is written into it then is
written well, and is not found at the next start.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from fractal_rm.domain.errors import JournalGone


class Place:
    """Files that are open, and stay open: their inodes are given to no other file."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._there = [(str(path), _inode(str(path))) for path in paths]

    def check(self) -> None:
        """Compare; 2 µs a file. Raises JournalGone."""
        for path, inode in self._there:
            if _inode(path) != inode:
                raise JournalGone(f"{path} is not the file that is open: put that one back")


def _inode(path: str) -> tuple[int, int] | None:
    """Device and number of what a path leads to; None: it leads nowhere."""
    try:
        found = os.stat(path)  # noqa: PTH116 - for each group, so the cheap one
    except OSError:
        return None
    return found.st_dev, found.st_ino
