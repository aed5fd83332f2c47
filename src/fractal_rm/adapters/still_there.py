"""Whether files that are open are still the ones that the next start will open.

Who deletes or renames a file takes it from nobody who has it open: what is written into it then is
written well, and is not found at the next start.

Whoever does so changes the folder of the file, and whoever renames that folder changes it as well:
while their folders are as they were, no path has to be followed. What is done farther up (a folder
above them, a link, a mount) is seen when the paths are looked at again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from fractal_rm.adapters.clock import NodeClock
from fractal_rm.domain.journal_errors import JournalGone

Look = Callable[[str], os.stat_result]
Inode = tuple[int, int]  # the device, and the number on it
Times = tuple[int, int]  # of the last changes that a folder bears, ns

LOOK_AT_PATHS_S = 0.1
# File systems count in steps of up to 2 s, so two changes may bear the same time: a folder is
# trusted when it has borne the same for longer.
SETTLED_S = 3.0


class StillThere:
    """Files that are open, and stay open: so no other ones get their inodes."""

    def __init__(self, monotonic_s: Callable[[], float] = NodeClock.monotonic_s) -> None:
        self._monotonic_s = monotonic_s
        self._files: dict[str, tuple[Look, Inode | None]] = {}
        self._folders: dict[str, _Folder] = {}
        self._look_at_s = 0.0

    def add(self, path: str, look: Look = os.lstat) -> None:
        """Take what is at a path now, or that there is nothing. Raises OSError."""
        self._files[path] = look, _inode(path, look)
        folder = str(Path(path).parent)
        if folder not in self._folders:
            self._folders[folder] = _Folder(folder)
        self._look_at_s = 0.0

    def discard(self, path: str) -> None:
        """It is not open any more."""
        self._files.pop(path, None)

    def close(self) -> None:
        """Nothing is open any more."""
        for folder in self._folders.values():
            os.close(folder.opened)
        self._folders, self._files = {}, {}

    def check(self) -> None:
        """Compare: 1 µs a folder, or else 2 µs a file. Raises JournalGone."""
        now_s = self._monotonic_s()
        as_it_was = now_s < self._look_at_s
        for folder in self._folders.values():
            times = folder.times_now()
            if times != folder.times:
                folder.times, folder.settled_at_s = times, now_s + SETTLED_S
            if times is None or now_s < folder.settled_at_s:
                as_it_was = False
        if not as_it_was:
            self._look_at_paths(now_s)

    def _look_at_paths(self, now_s: float) -> None:
        for path, (look, inode) in self._files.items():
            if _inode(path, look) != inode:
                self._look_at_s = 0.0
                raise JournalGone(f"{path} is not the file that is open: put that one back")
        self._look_at_s = now_s + LOOK_AT_PATHS_S


class _Folder:
    """One that is ``opened``, whatever is done to its name, and since when it is as it is."""

    def __init__(self, path: str) -> None:
        self.opened = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.times: Times | None = None
        self.settled_at_s = 0.0

    def times_now(self) -> Times | None:
        """None: its server does not know it any more, or its disk is gone."""
        try:
            found = os.fstat(self.opened)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns


def _inode(path: str, look: Look) -> Inode | None:
    """None: there is nothing."""
    try:
        found = look(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
