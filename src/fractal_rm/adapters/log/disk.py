"""The files of a log: a folder of them, written in place and synced.

What this promises is what the journal stands on; the simulation has another disk, which forgets
what was not synced.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from fractal_rm.domain.errors import JournalGone

_FILLED_AT_ONCE = 1 << 20


def log_folder(journal: Path) -> Path:
    """Where the log of a journal is: beside the file that links lead to."""
    return journal.resolve().with_suffix(".log")


class Disk(Protocol):
    """Files by name. All but ``check`` raise OSError."""

    def names(self) -> list[str]:
        """Every file that is there."""
        ...

    def create(self, name: str, size: int) -> None:
        """Make a file of zeros, durable with its name.

        Its zeros are written: a later write into it, and the sync of that, change no metadata.
        """
        ...

    def size(self, name: str) -> int:
        """How many bytes a file has."""
        ...

    def read(self, name: str, first: int = -1) -> bytes:
        """All of a file, or its first bytes."""
        ...

    def write(self, name: str, place: int, data: bytes) -> None:
        """Hand bytes to the system: from here on they outlive the process, not the power."""
        ...

    def sync(self, name: str) -> None:
        """Return when what was written outlives the power."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file."""
        ...

    def check(self) -> None:
        """Raise JournalGone where what is written would not be found again under its name."""
        ...

    def close(self) -> None:
        """Let go of the files."""
        ...


class FolderDisk:
    """A folder of a real file system."""

    def __init__(self, folder: Path) -> None:
        """Make the folder where it is not there. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._files: dict[str, int] = {}
        self._inodes: dict[str, tuple[int, int]] = {}

    def names(self) -> list[str]:
        """Every file that is there."""
        return sorted(entry.name for entry in os.scandir(self._folder) if entry.is_file())

    def create(self, name: str, size: int) -> None:
        """Fill a file with zeros beside its name, and give it the name when they are durable."""
        unfinished = self._folder / f"{name}.new"
        file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            for at in range(0, size, _FILLED_AT_ONCE):
                _write_all(file, bytes(min(_FILLED_AT_ONCE, size - at)), at)
            os.fsync(file)
        except OSError:
            unfinished.unlink()
            raise
        finally:
            os.close(file)
        unfinished.rename(self._folder / name)
        self._sync_folder()

    def size(self, name: str) -> int:
        """How many bytes a file has."""
        return (self._folder / name).stat().st_size

    def read(self, name: str, first: int = -1) -> bytes:
        """All of a file, or its first bytes."""
        with (self._folder / name).open("rb", buffering=0) as file:
            return file.read(first) or b""

    def write(self, name: str, place: int, data: bytes) -> None:
        """Into the system's cache: some 10 µs."""
        _write_all(self._opened(name), data, place)

    def sync(self, name: str) -> None:
        """Wait for the disk."""
        os.fdatasync(self._opened(name))

    def delete(self, name: str) -> None:
        """Remove a file."""
        self._let_go(name)
        (self._folder / name).unlink()
        self._sync_folder()

    def check(self) -> None:
        """Compare the files that are open with those that have their names; 2 µs a file."""
        for name, inode in self._inodes.items():
            path = self._folder / name
            try:
                found = os.lstat(path)
            except OSError:
                found = None
            if found is None or (found.st_dev, found.st_ino) != inode:
                raise JournalGone(f"{path} is not the file that is open: put that one back")

    def close(self) -> None:
        """Let go of the files."""
        for name in list(self._files):
            self._let_go(name)

    def _opened(self, name: str) -> int:
        file = self._files.get(name)
        if file is None:
            file = os.open(self._folder / name, os.O_WRONLY | os.O_CLOEXEC)
            found = os.fstat(file)
            self._files[name] = file
            self._inodes[name] = found.st_dev, found.st_ino
        return file

    def _let_go(self, name: str) -> None:
        file = self._files.pop(name, None)
        if file is not None:
            del self._inodes[name]
            os.close(file)

    def _sync_folder(self) -> None:
        """A new name survives a power cut only if its folder is on the disk, too."""
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _write_all(file: int, data: bytes, place: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, place)
        view, place = view[written:], place + written
