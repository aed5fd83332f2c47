"""A file that one process at a time may hold; the system lets go of it when that process ends."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

_PASSING = " passing"
_RETRY_S = 0.02
_CERTAIN = 3  # what the file says and who holds it are two things for some microseconds
_TRIES = 1_500  # to move a hundred thousand runs takes some seconds


class Held(Exception):
    """Another process holds it; ``by`` is its id. ``passing``: it lets go of it soon."""

    def __init__(self, by: str, *, passing: bool = False) -> None:
        super().__init__(f"held by process {by}")
        self.by = by
        self.passing = passing


class FileLock:
    """Held from when it is made until ``release``. The file has the holder's process id.

    ``passing``: it is held for a moment only, and the file is left as it was.
    """

    def __init__(self, path: Path, *, passing: bool = False) -> None:
        """Take it. Raises Held, OSError."""
        self._path = path
        self._left: bytes | None = None
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if passing:
                self._left = os.pread(self._file, 40, 0)
            self._write(f"{os.getpid()}{_PASSING if passing else ''}".encode())
        except BlockingIOError:
            text = os.pread(self._file, 40, 0).decode(errors="replace")
            os.close(self._file)
            by = text.removesuffix(_PASSING).strip()
            raise Held(by or "unknown", passing=text.endswith(_PASSING)) from None
        except OSError:
            os.close(self._file)
            raise

    def keep(self) -> None:
        """Take it again where its file was deleted or replaced. Raises Held, OSError."""
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._file), self._path.stat()):
                return
        again = FileLock(self._path)
        self.release()
        self._file = again._file

    def release(self) -> None:
        """Let go."""
        if self._left is not None:
            with suppress(OSError):
                self._write(self._left)
        os.close(self._file)

    def _write(self, text: bytes) -> None:
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, text, 0)


def wait_for_lock(path: Path) -> FileLock:
    """Take it when who holds it for a moment has let go. Raises Held, OSError."""
    stays = 0  # so often it was seen that who holds it will keep it
    for _ in range(_TRIES):
        try:
            return FileLock(path)
        except Held as held:
            stays += not held.passing
            if stays >= _CERTAIN:
                raise
        time.sleep(_RETRY_S)
    return FileLock(path)
