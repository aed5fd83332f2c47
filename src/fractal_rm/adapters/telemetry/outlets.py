"""The targets of log lines: a file with rotation, or an open stream.

Writing may block, so call ``write`` in a separate thread.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
from contextlib import suppress
from pathlib import Path
from typing import Protocol

MAX_FILE_BYTES = 10 * 1024 * 1024
ROTATED_FILES = 3
WAIT_MS = 1_000


class Outlet(Protocol):
    """A target of log lines."""

    def write(self, line: bytes) -> int:
        """Write a part of the line, or all of it. Blocks. Raises OSError.

        Returns the number of bytes written.
        """
        ...


class Stream:
    """An open file descriptor. Other programs may share it, so its flags must not be changed."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, line: bytes) -> int:
        """Write a part of the line, or all of it. Returns the number of bytes written.

        The result is 0 if the stream is full and another program has made it non-blocking.
        """
        try:
            return os.write(self._descriptor, line)
        except BlockingIOError:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            poll.poll(WAIT_MS)
            return 0


class LogFile:
    """A log file. If another program renames it (logrotate), the next line creates a new file.

    A regular file is rotated before it exceeds ``max_bytes``. Several processes may write into the
    same file. If the path is a symbolic link, its target is not rotated.
    """

    def __init__(
        self,
        path: str,
        *,
        max_bytes: int = MAX_FILE_BYTES,
        rotated_files: int = ROTATED_FILES,
    ) -> None:
        """Open the file. Raises OSError, for example for a FIFO that no process reads."""
        self._path = path
        self._max_bytes = max_bytes
        self._rotated_files = rotated_files
        self._descriptor = -1
        self._open()

    def write(self, line: bytes) -> int:
        """Append a line. Returns how many bytes were written."""
        if not self._is_at_its_path():
            self._open()
        if os.fstat(self._descriptor).st_size + len(line) > self._max_bytes:
            with suppress(OSError):  # the file grows if the folder does not permit a rename
                self._rotate()
        return os.write(self._descriptor, line)

    def _open(self) -> None:
        # O_NONBLOCK, so that opening a FIFO does not wait for a reader. Writes must block, so the
        # flag is removed after that. No other program shares the descriptor.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(self._path, flags, 0o666)
        os.set_blocking(descriptor, True)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = descriptor

    def _is_at_its_path(self) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._descriptor), Path(self._path).stat())
        return False

    def _rotate(self) -> None:
        if not stat.S_ISREG(Path(self._path).lstat().st_mode):
            return
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            if self._is_at_its_path():  # otherwise another process has just rotated the file
                self._rename_files()
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._open()

    def _rename_files(self) -> None:
        names = [Path(f"{self._path}.{n}") for n in range(self._rotated_files, 0, -1)]
        for older, newer in zip(names, [*names[1:], Path(self._path)], strict=True):
            with suppress(FileNotFoundError):
                newer.replace(older)
