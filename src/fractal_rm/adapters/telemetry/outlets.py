"""Where lines of the log go: a file that is rotated and found again, or a stream that is there.

Writing blocks for as long as a disk or a reader takes: for a thread of its own.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
from contextlib import suppress
from pathlib import Path
from typing import Protocol

FILE_BYTES = 10 * 1024 * 1024
FILES_KEPT = 3
WAIT_MS = 1_000


class Outlet(Protocol):
    """Takes bytes."""

    def write(self, line: bytes) -> int:
        """Write some of them, and return how many. Blocks. Raises OSError."""
        ...


class Stream:
    """A descriptor that other programs may share, so that nothing about it is changed."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, line: bytes) -> int:
        """Write some; 0 where one of the others has made it non-blocking and it takes none."""
        try:
            return os.write(self._descriptor, line)
        except BlockingIOError:
            room = select.poll()
            room.register(self._descriptor, select.POLLOUT)
            room.poll(WAIT_MS)
            return 0


class LogFile:
    """The file at a path. Whoever moves it away (logrotate) finds the next line in a new one.

    A regular file is rotated at 10 MiB, also where several processes write into it; what a symbolic
    link leads to is left as it is.
    """

    def __init__(self, path: str) -> None:
        """Open it. Raises OSError, also where it is a FIFO that nobody reads."""
        self._path = path
        self._descriptor = -1
        self._open()

    def write(self, line: bytes) -> int:
        """Append."""
        if not self._is_at_its_path():
            self._open()
        if os.fstat(self._descriptor).st_size + len(line) > FILE_BYTES:
            with suppress(OSError):  # the folder may be another user's: then the file grows
                self._rotate()
        return os.write(self._descriptor, line)

    def _open(self) -> None:
        # Not to wait for a reader of a FIFO. What is opened here is nobody else's, so that it can
        # be made to wait when it is written.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK
        opened = os.open(self._path, flags, 0o666)
        os.set_blocking(opened, True)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = opened

    def _is_at_its_path(self) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._descriptor), Path(self._path).stat())
        return False

    def _rotate(self) -> None:
        if not stat.S_ISREG(Path(self._path).lstat().st_mode):
            return
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            if self._is_at_its_path():  # else another process has just done it
                self._move_away()
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._open()

    def _move_away(self) -> None:
        names = [Path(f"{self._path}.{n}") for n in range(FILES_KEPT, 0, -1)]
        for older, newer in zip(names, [*names[1:], Path(self._path)], strict=True):
            with suppress(FileNotFoundError):
                newer.replace(older)
