"""A file that one process at a time may hold; the system lets go of it when that process ends."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path


class Held(Exception):
    """Another process holds it; ``by`` is its id."""

    def __init__(self, by: str) -> None:
        super().__init__(f"held by process {by}")
        self.by = by


class FileLock:
    """Held from when it is made until ``release``. The file has the holder's process id."""

    def __init__(self, path: Path) -> None:
        """Take it. Raises Held, OSError."""
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, str(os.getpid()).encode(), 0)
        except BlockingIOError:
            holder = os.pread(self._file, 20, 0).decode(errors="replace").strip()
            self.release()
            raise Held(holder or "unknown") from None
        except OSError:
            self.release()
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
        os.close(self._file)
