"""The folder of the files of a log. The files are written in place, and then synced.

The docstrings of `Disk` state what the journal relies on. Tests and the simulation use a disk in
memory, which can lose unsynced data.
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

_FILL_BYTES = 1 << 16  # a larger buffer would not be returned to the system afterwards


def log_folder(journal: Path) -> Path:
    """The folder of the log of a journal. Symbolic links are resolved."""
    return journal.resolve().with_suffix(".log")


class Disk(Protocol):
    """Files whose names are numbers. All methods except ``check`` may raise OSError.

    Call the methods on the event loop. A thread may call ``create`` and ``sync`` at the same time.
    ``sync`` covers only data that was written before ``sync`` began.
    """

    where: str  # the folder, as shown in messages

    def make(self) -> None:
        """Create the folder if it does not exist."""
        ...

    def names(self) -> list[str]:
        """The names of all files. Names that are not numbers are left out."""
        ...

    def create(self, name: str, size: int) -> None:
        """Create a file of zeros. Returns when the content and the name are durable.

        The zeros are really written to the disk, so later writes and syncs change no metadata.
        """
        ...

    def has(self, name: str) -> bool:
        """Whether a file exists."""
        ...

    def size(self, name: str) -> int:
        """The size of a file in bytes."""
        ...

    def read(self, name: str, max_bytes: int = -1, place: int = 0) -> bytes:
        """The content of a file from ``place`` on: all, or at most ``max_bytes``."""
        ...

    def keep_open(self, name: str) -> None:
        """Open a file and keep it open, so that later writes need no new file descriptor."""
        ...

    def write(self, name: str, place: int, data: bytes) -> None:
        """Write bytes. They survive the end of the process, but a power loss only after `sync`."""
        ...

    def sync(self, name: str) -> None:
        """Wait until the data written so far survives a power loss."""
        ...

    def delete(self, name: str) -> None:
        """Delete a file. The file may exist again after a power loss."""
        ...

    def check(self) -> None:
        """Raise JournalMoved if an open file is no longer the file at its path."""
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
        self._path_check = OpenFileCheck()

    def make(self) -> None:
        """Create the folder if it does not exist."""
        self._folder.mkdir(parents=True, exist_ok=True)

    def names(self) -> list[str]:
        """The names of all files. Files that a killed process has not completed are left out."""
        return sorted(entry.name for entry in self._folder.iterdir() if entry.name.isdecimal())

    def create(self, name: str, size: int) -> None:
        """Fill a file with zeros under a temporary name, sync it, and rename it."""
        unfinished = self._folder / f"{name}.new"
        file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            for at in range(0, size, _FILL_BYTES):
                _write_all(file, bytes(min(_FILL_BYTES, size - at)), at)
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
        """The size of a file in bytes. Raises NotRegular if it is not a regular file."""
        return stat_regular(self._folder / name).st_size

    def read(self, name: str, max_bytes: int = -1, place: int = 0) -> bytes:
        """The content of a file from ``place`` on."""
        with (self._folder / name).open("rb", buffering=0) as file:
            _ = file.seek(place)
            return file.read(max_bytes) or b""

    def keep_open(self, name: str) -> None:
        """Open a file and keep it open."""
        if name not in self._files:
            _ = self._open(name)

    def write(self, name: str, place: int, data: bytes) -> None:
        """Write into the page cache, in about 10 µs."""
        file = self._files.get(name) or self._open(name)
        written_size = os.pwrite(file, data, place)
        if written_size != len(data):
            _write_all(file, data[written_size:], place + written_size)

    def sync(self, name: str) -> None:
        """Wait until the data of a file is on the disk."""
        os.fdatasync(self._files.get(name) or self._open(name))

    def delete(self, name: str) -> None:
        """Delete a file."""
        self._close(name)
        (self._folder / name).unlink()

    def check(self) -> None:
        """Raise JournalMoved if an open file is no longer the file at its path."""
        self._path_check.check()

    def close(self) -> None:
        """Close the files."""
        for name in list(self._files):
            self._close(name)
        self._path_check.close()

    def _open(self, name: str) -> int:
        path = str(self._folder / name)
        file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        self._files[name] = file
        self._path_check.add(path)
        return file

    def _close(self, name: str) -> None:
        file = self._files.pop(name, None)
        if file is not None:
            self._path_check.discard(str(self._folder / name))
            os.close(file)


def refusal(error: OSError) -> OSError | JournalFull:
    """The error to raise for a failed write: JournalFull if a retry may succeed, else ``error``."""
    if is_out_of_descriptors(error):
        return JournalNoDescriptor("no file descriptor is free for the log; raise `ulimit -n`")
    if isinstance(error, PermissionError):
        file = error.filename or "the log"
        return JournalForbidden(
            f"{file} cannot be used ({error.strerror}); {JournalForbidden.cure}"
        )
    if error.errno not in (ENOSPC, EDQUOT):
        return error
    return JournalFull("the disk is full; make room, or set state.path to another disk")


def unusable(error: OSError) -> JournalError:
    """The error to raise if a start cannot use the folder of a log. Its text says what to do."""
    if error.errno in (ENOSPC, EDQUOT):
        return JournalFull(
            f"{error.filename}: the disk is full; make room, or set state.path to another disk"
        )
    fault = f"{error.filename} cannot be used ({error.strerror})"
    if isinstance(error, PermissionError) or error.errno == EROFS:
        return JournalReadOnly(f"{fault}; give the user of this program read and write permission")
    return JournalDamaged(
        f"{fault}; restore the original, or move this file or folder away. Nothing was changed"
    )


def _write_all(file: int, data: bytes, place: int) -> None:
    view = memoryview(data)
    while view:
        written_size = os.pwrite(file, view, place)
        view, place = view[written_size:], place + written_size
