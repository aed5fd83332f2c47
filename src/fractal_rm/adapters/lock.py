"""A lock file: one process at a time holds it. When that process ends, the system releases it."""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

_PASSING = " passing"  # written after the process id by a holder that will release the lock soon
_RETRY_S = 0.02
# How often the file must name a permanent holder before that is believed: for some microseconds
# after the lock is taken, the file still has the text of the previous holder.
_CERTAIN = 3
_TRIES = 1_500  # a holder may need some seconds, for example to move a hundred thousand runs


class LockHeld(Exception):
    """Another process, with the id ``by``, holds the lock. ``passing``: it will release it soon."""

    def __init__(self, by: str, *, passing: bool = False) -> None:
        super().__init__(f"held by process {by}")
        self.by = by
        self.brief = passing


class FileLock:
    """A lock, held from its construction to ``release``. The file has the holder's process id.

    ``passing``: the lock is held for a moment only; ``release`` restores the text of the file.
    """

    def __init__(self, path: Path, *, passing: bool = False) -> None:
        """Take the lock. Raises Held, OSError."""
        self._path = path
        self._text_before: bytes | None = None
        self._file = self._take(passing=passing)

    def _take(self, *, passing: bool = False) -> int:
        """Open and lock the file. Raises Held, OSError."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if passing:
                self._text_before = os.pread(file, 40, 0)
            _replace_text(file, f"{os.getpid()}{_PASSING if passing else ''}".encode())
        except BlockingIOError:
            text = os.pread(file, 40, 0).decode(errors="replace")
            os.close(file)
            by = text.removesuffix(_PASSING).strip()
            raise LockHeld(by or "unknown", passing=text.endswith(_PASSING)) from None
        except OSError:
            os.close(file)
            raise
        return file

    def retake_if_replaced(self) -> None:
        """Take the lock again if its file was deleted or replaced. Raises Held, OSError."""
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._file), self._path.stat()):
                return
        file = self._take()
        self.release()
        self._file = file

    def release(self) -> None:
        """Release the lock."""
        if self._text_before is not None:
            with suppress(OSError):
                _replace_text(self._file, self._text_before)
        os.close(self._file)


def _replace_text(file: int, text: bytes) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, text, 0)


def wait_for_lock(path: Path) -> FileLock:
    """Take the lock; wait for a holder that will release it soon. Raises Held, OSError."""
    permanent = 0  # how often the file named a holder that keeps the lock
    for _ in range(_TRIES):
        try:
            return FileLock(path)
        except LockHeld as held:
            permanent += not held.brief
            if permanent >= _CERTAIN:
                raise
        time.sleep(_RETRY_S)
    return FileLock(path)
