"""The files of a log: a folder of them, written in place and synced.

What this promises is what the journal stands on; the simulation has another disk, which forgets
what was not synced.
"""

from __future__ import annotations

import os
from errno import EDQUOT, ENOSPC, EROFS
from pathlib import Path
from typing import Protocol

from fractal_rm.adapters.still_there import StillThere
from fractal_rm.config.regular_file import stat_regular
from fractal_rm.config.whole_file import sync_folder
from fractal_rm.domain.journal_errors import (
    JournalDamaged,
    JournalError,
    JournalForbidden,
    JournalFull,
    JournalReadOnly,
    JournalWithoutFile,
)
from fractal_rm.domain.none_left import none_left

_FILLED_AT_ONCE = 1 << 16  # more would stay in the process's memory


def log_folder(journal: Path) -> Path:
    """Where the log of a journal is: beside the file that links lead to."""
    return journal.resolve().with_suffix(".log")


class Disk(Protocol):
    """Files whose names are numbers. All but ``check`` raise OSError.

    They are called on the event loop; ``create`` and ``sync`` may be called on a thread beside it,
    ``sync`` only for what was written before.
    """

    where: str  # the folder, for people

    def make(self) -> None:
        """Make the folder where it is not there."""
        ...

    def names(self) -> list[str]:
        """Every file that is there; what else somebody has put there is none."""
        ...

    def create(self, name: str, size: int) -> None:
        """Make a file of zeros, durable with its name.

        Its zeros are written: a later write into it, and the sync of that, change no metadata.
        """
        ...

    def has(self, name: str) -> bool:
        """Whether a file is there still."""
        ...

    def size(self, name: str) -> int:
        """How many bytes a file has."""
        ...

    def read(self, name: str, most: int = -1, place: int = 0) -> bytes:
        """A file from a place on: all, or so many bytes."""
        ...

    def hold(self, name: str) -> None:
        """Have a file open: from here on writing into it needs no file descriptor."""
        ...

    def write(self, name: str, place: int, data: bytes) -> None:
        """Hand bytes to the system: from here on they outlive the process, not the power."""
        ...

    def sync(self, name: str) -> None:
        """Return when what was written outlives the power."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file. A power cut may bring it back."""
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
        self._folder = folder
        self.where = str(folder)
        self._files: dict[str, int] = {}
        self._there = StillThere()

    def make(self) -> None:
        """Make the folder where it is not there."""
        self._folder.mkdir(parents=True, exist_ok=True)

    def names(self) -> list[str]:
        """Every file that is there. One that a killed process has not finished has another name."""
        return sorted(entry.name for entry in self._folder.iterdir() if entry.name.isdecimal())

    def create(self, name: str, size: int) -> None:
        """Fill a file with zeros beside its name, and give it the name when they are durable."""
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
        """Whether a file is there still."""
        return (self._folder / name).exists()

    def size(self, name: str) -> int:
        """How many bytes a file has. Raises NotRegular where it is a FIFO or the like."""
        return stat_regular(self._folder / name).st_size

    def read(self, name: str, most: int = -1, place: int = 0) -> bytes:
        """A file from a place on."""
        with (self._folder / name).open("rb", buffering=0) as file:
            _ = file.seek(place)
            return file.read(most) or b""

    def hold(self, name: str) -> None:
        """Have a file open."""
        if name not in self._files:
            _ = self._open(name)

    def write(self, name: str, place: int, data: bytes) -> None:
        """Into the system's cache: some 10 µs."""
        file = self._files.get(name) or self._open(name)
        written = os.pwrite(file, data, place)
        if written != len(data):
            _write_all(file, data[written:], place + written)

    def sync(self, name: str) -> None:
        """Wait for the disk."""
        os.fdatasync(self._files.get(name) or self._open(name))

    def delete(self, name: str) -> None:
        """Remove a file."""
        self._let_go(name)
        (self._folder / name).unlink()

    def check(self) -> None:
        """Compare the files that are open with those that have their names."""
        self._there.check()

    def close(self) -> None:
        """Let go of the files."""
        for name in list(self._files):
            self._let_go(name)
        self._there.close()

    def _open(self, name: str) -> int:
        path = str(self._folder / name)
        file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        self._files[name] = file
        self._there.add(path)
        return file

    def _let_go(self, name: str) -> None:
        file = self._files.pop(name, None)
        if file is not None:
            self._there.discard(str(self._folder / name))
            os.close(file)


def refusal(error: OSError) -> OSError | JournalFull:
    """Why something was not written: JournalFull, where that may pass by itself."""
    if none_left(error):
        return JournalWithoutFile("no file descriptor is free for the log; raise `ulimit -n`")
    if isinstance(error, PermissionError):
        what = error.filename or "the log"
        return JournalForbidden(
            f"{what} cannot be used ({error.strerror}); {JournalForbidden.cure}"
        )
    if error.errno not in (ENOSPC, EDQUOT):
        return error
    return JournalFull("the disk is full; make room, or set state.path elsewhere")


def unusable(error: OSError) -> JournalError:
    """Why the folder of a log cannot be used at a start, and the cure."""
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
