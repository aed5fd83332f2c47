"""The files of a log: a folder of files that are written in place and synced.

The journal relies on what `Disk` promises. Tests and the simulation use a disk in memory that
loses what was not synced.
"""

from __future__ import annotations

import os
from errno import EDQUOT, ENOSPC, EROFS
from pathlib import Path
from typing import Protocol

from fractal_rm.adapters.open_file_check import OpenFileCheck
from fractal_rm.config.durable_files import sync_folder
from fractal_rm.config.regular_file import stat_regular
from fractal_rm.domain.descriptors import is_out_of_descriptors
from fractal_rm.domain.journal_errors import (
    JournalDamaged,
    JournalError,
    JournalForbidden,
    JournalFull,
    JournalNoDescriptor,
    JournalReadOnly,
)

_FILLED_AT_ONCE = 1 << 16  # a larger buffer would stay allocated


def log_folder(journal: Path) -> Path:
    """The folder of the log of a journal. Links are resolved."""
    return journal.resolve().with_suffix(".log")


class Disk(Protocol):
    """Files whose names are numbers. All methods but ``check`` raise OSError.

    They are called on the event loop. ``create`` and ``sync`` may also be called on a thread at the
    same time; ``sync`` covers only what was written before it began.
    """

    where: str  # the folder, for people

    def make(self) -> None:
        """Make the folder if it does not exist."""
        ...

    def names(self) -> list[str]:
        """All files; those with other names are left out."""
        ...

    def create(self, name: str, size: int) -> None:
        """Make a file of zeros, durable with its name.

        The zeros are written to the disk, so that later writes and syncs change no metadata.
        """
        ...

    def has(self, name: str) -> bool:
        """Whether a file exists."""
        ...

    def size(self, name: str) -> int:
        """How many bytes a file has."""
        ...

    def read(self, name: str, most: int = -1, place: int = 0) -> bytes:
        """The content of a file from ``place`` on: all, or at most ``most`` bytes."""
        ...

    def keep_open(self, name: str) -> None:
        """Open a file and keep it open: later writes need no new file descriptor."""
        ...

    def write(self, name: str, place: int, data: bytes) -> None:
        """Write bytes: they survive the end of the process, but not a power loss."""
        ...

    def sync(self, name: str) -> None:
        """Return when what was written survives a power loss."""
        ...

    def delete(self, name: str) -> None:
        """Delete a file. A power loss may bring it back."""
        ...

    def check(self) -> None:
        """Raise JournalGone if an open file is no longer the one at its path."""
        ...

    def close(self) -> None:
        """Close the files."""
        ...


class FolderDisk:
    """Port `Disk` on a folder of a file system."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.where = str(folder)
        self._files: dict[str, int] = {}
        self._there = OpenFileCheck()

    def make(self) -> None:
        """Make the folder if it does not exist."""
        self._folder.mkdir(parents=True, exist_ok=True)

    def names(self) -> list[str]:
        """All files. A file that a killed process did not complete has another name."""
        return sorted(entry.name for entry in self._folder.iterdir() if entry.name.isdecimal())

    def create(self, name: str, size: int) -> None:
        """Fill a file with zeros under a temporary name, sync it, and rename it."""
        unfinished = self._folder / f"{name}.new"
        file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            for at in range(0, size, _FILLED_AT_ONCE):
                _write_all(file, bytes(min(_FILLED_AT_ONCE, size - at)), at)
            os.fsync(file)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)
        unfinished.rename(self._folder / name)
        sync_folder(self._folder)

    def has(self, name: str) -> bool:
        """Whether a file exists."""
        return (self._folder / name).exists()

    def size(self, name: str) -> int:
        """How many bytes a file has. Raises NotRegular if it is a FIFO or the like."""
        return stat_regular(self._folder / name).st_size

    def read(self, name: str, most: int = -1, place: int = 0) -> bytes:
        """The content of a file from ``place`` on."""
        with (self._folder / name).open("rb", buffering=0) as file:
            _ = file.seek(place)
            return file.read(most) or b""

    def keep_open(self, name: str) -> None:
        """Open a file and keep it open."""
        if name not in self._files:
            _ = self._open(name)

    def write(self, name: str, place: int, data: bytes) -> None:
        """Write into the page cache: about 10 µs."""
        file = self._files.get(name) or self._open(name)
        written = os.pwrite(file, data, place)
        if written != len(data):
            _write_all(file, data[written:], place + written)

    def sync(self, name: str) -> None:
        """Wait for the disk."""
        os.fdatasync(self._files.get(name) or self._open(name))

    def delete(self, name: str) -> None:
        """Delete a file."""
        self._close(name)
        (self._folder / name).unlink()

    def check(self) -> None:
        """Compare the open files with those at their paths."""
        self._there.check()

    def close(self) -> None:
        """Close the files."""
        for name in list(self._files):
            self._close(name)
        self._there.close()

    def _open(self, name: str) -> int:
        path = str(self._folder / name)
        file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        self._files[name] = file
        self._there.add(path)
        return file

    def _close(self, name: str) -> None:
        file = self._files.pop(name, None)
        if file is not None:
            self._there.discard(str(self._folder / name))
            os.close(file)


def refusal(error: OSError) -> OSError | JournalFull:
    """The error to raise for a failed write: JournalFull if a retry may succeed."""
    if is_out_of_descriptors(error):
        return JournalNoDescriptor("no file descriptor is free for the log; raise `ulimit -n`")
    if isinstance(error, PermissionError):
        what = error.filename or "the log"
        return JournalForbidden(
            f"{what} cannot be used ({error.strerror}); {JournalForbidden.cure}"
        )
    if error.errno not in (ENOSPC, EDQUOT):
        return error
    return JournalFull("the disk is full; make room, or set state.path elsewhere")


def unusable(error: OSError) -> JournalError:
    """The error to raise if the folder of a log cannot be used at a start, with the cure."""
    if error.errno in (ENOSPC, EDQUOT):
        return JournalFull(
            f"{error.filename}: the disk is full; make room, or set state.path elsewhere"
        )
    what = f"{error.filename} cannot be used ({error.strerror})"
    if isinstance(error, PermissionError) or error.errno == EROFS:
        return JournalReadOnly(f"{what}; give the user of this program read and write permission")
    return JournalDamaged(f"{what}; put back what was there, or move it away. Nothing was changed")


def _write_all(file: int, data: bytes, place: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, place)
        view, place = view[written:], place + written
