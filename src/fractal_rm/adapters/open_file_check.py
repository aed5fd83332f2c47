"""Checks that open files are still at their paths.

A process can write into an open file that was deleted or renamed. The write succeeds, but the next
start of the program does not find the data.

Deleting or renaming a file changes the times of its folder (mtime, ctime). Renaming the folder
changes these times, too. While the times of all folders are unchanged, the paths are checked only
every 0.1 s. These checks find changes of a parent folder, a link or a mount.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from fractal_rm.adapters.clock import NodeClock
from fractal_rm.domain.journal_errors import JournalMoved

StatFunction = Callable[[str], os.stat_result]  # os.stat or os.lstat
Inode = tuple[int, int]  # device and inode number
FolderTimes = tuple[int, int]  # mtime and ctime, ns

CHECK_PATHS_S = 0.1  # how long a check of the paths is valid
# Some file systems store times in steps of 2 s: after a second change, the time may be the same.
# Therefore the time of a folder is trusted only when it has been the same for more than 2 s.
TRUSTED_AFTER_S = 3.0


class OpenFileCheck:
    """A set of open files with their paths.

    A file is recognized by its inode number, which cannot be reused while the file is open.
    """

    def __init__(self, monotonic_s: Callable[[], float] = NodeClock.monotonic_s) -> None:
        self._monotonic_s = monotonic_s
        self._files: dict[str, tuple[StatFunction, Inode | None]] = {}
        self._folders: dict[str, _Folder] = {}
        self._paths_valid_until_s = 0.0

    def add(self, path: str, stat: StatFunction = os.lstat) -> None:
        """Add a path. Raises OSError.

        Later, `check` requires that the path still leads to the same file. If there is no file at
        the path yet, `check` requires that no file is created there.
        """
        self._files[path] = stat, _inode(path, stat)
        folder = str(Path(path).parent)
        if folder not in self._folders:
            self._folders[folder] = _Folder(folder)
        self._paths_valid_until_s = 0.0

    def discard(self, path: str) -> None:
        """Remove the path of a file that was closed."""
        self._files.pop(path, None)

    def close(self) -> None:
        """Remove all files."""
        for folder in self._folders.values():
            os.close(folder.descriptor)
        self._folders, self._files = {}, {}

    def check(self) -> None:
        """Raise JournalMoved if a file is not at its path.

        A call takes 1 µs for each folder. If the paths must be checked, it also takes 2 µs for each
        file.
        """
        now_s = self._monotonic_s()
        unchanged = now_s < self._paths_valid_until_s
        for folder in self._folders.values():
            times = folder.times_now()
            if times != folder.times:
                folder.times, folder.trusted_from_s = times, now_s + TRUSTED_AFTER_S
            if times is None or now_s < folder.trusted_from_s:
                unchanged = False
        if not unchanged:
            self._check_paths(now_s)

    def _check_paths(self, now_s: float) -> None:
        for path, (stat, inode) in self._files.items():
            if _inode(path, stat) != inode:
                self._paths_valid_until_s = 0.0
                raise JournalMoved(
                    f"{path} is not the file that is open: move the original file back"
                )
        self._paths_valid_until_s = now_s + CHECK_PATHS_S


class _Folder:
    """A folder and its times. The folder stays open, so it is found even after it was renamed."""

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.times: FolderTimes | None = None
        self.trusted_from_s = 0.0

    def times_now(self) -> FolderTimes | None:
        """The times of the folder; None if they cannot be read any more."""
        try:
            status = os.fstat(self.descriptor)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ctime_ns


def _inode(path: str, stat: StatFunction) -> Inode | None:
    """The device and inode number of the file at the path; None if there is no file."""
    try:
        status = stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
