"""A lock on a file. Only one process at a time can hold the lock.

The operating system releases the lock when the process ends.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

# A holder that will release the lock soon writes this after its process id.
_BRIEF_SUFFIX = " passing"
_RETRY_S = 0.02
# `wait_for_lock` gives up when it has read a process id without the suffix this many times. Once is
# not enough: for some microseconds after the lock is taken, the file still contains the text of the
# previous holder.
_PERMANENT_AFTER = 3
_TRIES = 1_500  # in 30 s: the holder may need some seconds, for example to move 100,000 runs


class LockHeld(Exception):
    """Another process holds the lock. ``by`` is the process id of the holder.

    ``brief``: the holder will release the lock soon.
    """

    def __init__(self, by: str, *, brief: bool = False) -> None:
        super().__init__(f"process {by} holds the lock")
        self.by = by
        self.brief = brief


class FileLock:
    """A lock on a file. The constructor takes the lock, and `release` releases it.

    The file contains the process id of the holder. ``brief``: the file also says that the lock will
    be released soon. `release` then restores the previous text of the file.
    """

    def __init__(self, path: Path, *, brief: bool = False) -> None:
        """Take the lock. Raises LockHeld, OSError."""
        self._path = path
        self._text_before: bytes | None = None
        self._file = self._take(brief=brief)

    def _take(self, *, brief: bool = False) -> int:
        """Open and lock the file. Raises LockHeld, OSError."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if brief:
                self._text_before = os.pread(file, 40, 0)
            _replace_text(file, f"{os.getpid()}{_BRIEF_SUFFIX if brief else ''}".encode())
        except BlockingIOError:
            text = os.pread(file, 40, 0).decode(errors="replace")
            os.close(file)
            by = text.removesuffix(_BRIEF_SUFFIX).strip()
            raise LockHeld(by or "unknown", brief=text.endswith(_BRIEF_SUFFIX)) from None
        except OSError:
            os.close(file)
            raise
        return file

    def retake_if_replaced(self) -> None:
        """Take the lock again if its file was deleted or replaced. Raises LockHeld, OSError."""
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._file), self._path.stat()):
                return
        new_file = self._take()
        self.release()  # the old file
        self._file = new_file

    def release(self) -> None:
        """Release the lock."""
        if self._text_before is not None:
            with suppress(OSError):
                _replace_text(self._file, self._text_before)
        os.close(self._file)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock on a file. Raises OSError if the file cannot be read.

    A process that takes the lock at this moment tries again: see `wait_for_lock`.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _replace_text(file: int, text: bytes) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, text, 0)


def wait_for_lock(path: Path) -> FileLock:
    """Take the lock. If its holder will release it soon, wait up to 30 s for that.

    Raises LockHeld, OSError.
    """
    permanent_holders = 0  # how often the file had a process id without the suffix
    for _ in range(_TRIES):
        try:
            return FileLock(path)
        except LockHeld as error:
            permanent_holders += not error.brief
            if permanent_holders >= _PERMANENT_AFTER:
                raise
        time.sleep(_RETRY_S)
    return FileLock(path)
