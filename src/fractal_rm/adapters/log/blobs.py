"""Blobs: large values of facts, each in a file of its own, so that it is written once.

    write blobs ──> put the frame that names them ──> sync blobs, their names, then the log

A blob is whole in the system's hands before a frame names it: a killed process leaves no frame
without its blobs. A power cut may: the kernel writes in any order. So a frame holds only if its
blobs are whole. A file that no frame names is swept at a start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from errno import EINVAL, EIO, EISDIR, ELOOP
from pathlib import Path
from typing import Protocol
from zlib import crc32

from fractal_rm.adapters.log import records
from fractal_rm.adapters.log.timed import Blob, Ref


class BlobFiles(Protocol):
    """A folder of files that are written once. All but ``check`` raise OSError.

    They may be called on any thread.
    """

    where: str  # the folder, for people

    def names(self) -> list[str]:
        """Every blob that is there; none where the folder is not made yet."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Hand a whole new file to the system; where that fails, nothing is left of it."""
        ...

    def bring_in(self, name: str, file: Path) -> None:
        """Have a file of another folder, too: under a second name, or copied."""
        ...

    def sync(self, names: Sequence[str]) -> None:
        """Return when these files, with their names, outlive the power."""
        ...

    def size(self, name: str) -> int:
        """How many bytes a file has."""
        ...

    def pieces(self, name: str) -> Iterator[bytes]:
        """What a file holds, in pieces of at most 64 KiB."""
        ...

    def delete(self, name: str) -> None:
        """Remove a file, if it is there. A power cut may bring it back."""
        ...

    def check(self) -> None:
        """Raise JournalGone where what is written would not be found again under its name."""
        ...

    def close(self) -> None:
        """Let go of the folder."""
        ...


class BlobLost(Exception):
    """A blob is not there, or not as it was written; says which, and why."""


class Blobs:
    """The blobs of one log: which of them are to be synced yet. ``files`` are shared with readers.

    All is called on the event loop, but for `sync`, which a thread calls beside `written`.
    """

    def __init__(self, files: BlobFiles) -> None:
        self.files = files
        self._unsynced: list[str] = []

    def write(self, blobs: Iterable[Blob]) -> list[str]:
        """Write all, or none; returns their names. Raises OSError."""
        names: list[str] = []
        try:
            for ref, value in blobs:
                if ref.name is not None:
                    self.files.write(ref.name, bytes(value))
                    names.append(ref.name)
        except BaseException:
            self.delete(names)
            raise
        return names

    def delete(self, names: Iterable[str]) -> None:
        """Remove what no frame names. Raises OSError."""
        for name in names:
            self.files.delete(name)

    def written(self, names: Iterable[str]) -> None:
        """A frame names these from here on: they are synced before it."""
        self._unsynced += names

    def sync(self) -> None:
        """Wait until all `written` are on the disk. Raises OSError."""
        names = self._unsynced.copy()
        if names:
            self.files.sync(names)
            del self._unsynced[: len(names)]  # others may stand behind them by now

    def lost_in(self, body: bytes, *, is_synced: bool) -> str | None:
        """Why a frame does not hold though its body does; None: it holds.

        Of one that was not synced for certain, each blob is read; else its size is looked at.
        """
        lost = lost_in(self.files, body, check_size if is_synced else read)
        if lost is None:
            self.written(ref.name for ref in records.refs_named(body) if ref.name is not None)
        return lost


def lost_in(files: BlobFiles, body: bytes, look: Callable[[BlobFiles, Ref], object]) -> str | None:
    """Why a body does not hold, as one of its blobs does not; None: all do."""
    try:
        for ref in records.refs_named(body):
            look(files, ref)
    except BlobLost as lost:
        return str(lost)
    return None


def read(files: BlobFiles, ref: Ref) -> bytes:
    """The value that a fact refers to. Raises BlobLost, and OSError where it may be there."""
    return b"".join(verified(files, ref))


def verified(files: BlobFiles, ref: Ref) -> Iterator[bytes]:
    """The pieces of a value, which is whole if all come. Raises as `read`."""
    name, crc = check_size(files, ref), 0
    try:
        for piece in files.pieces(name):
            crc = crc32(piece, crc)
            yield piece
    except OSError as error:
        raise _why(files, ref, error) from error
    if crc != ref.crc:
        raise _lost(files, ref, "does not match its checksum")


def check_size(files: BlobFiles, ref: Ref) -> str:
    """Whether it is there, as long as it was; returns its name. Raises as `read`."""
    if ref.name is None:
        raise BlobLost(f"the {ref.field} of {ref.size} bytes is gone, as a repair has found")
    try:
        size = files.size(ref.name)
    except OSError as error:
        raise _why(files, ref, error) from error
    if size != ref.size:
        raise _lost(files, ref, f"has {size} of {ref.size} bytes")
    return ref.name


def _why(files: BlobFiles, ref: Ref, error: OSError) -> BlobLost | OSError:
    """Of one that cannot be read: whether it is lost, or this process alone cannot read it now."""
    if isinstance(error, FileNotFoundError):
        return _lost(files, ref, "is missing")
    if error.errno in (EIO, EINVAL, EISDIR, ELOOP):  # a bad sector, or no file
        return _lost(files, ref, f"cannot be read ({error.strerror})")
    return error


def _lost(files: BlobFiles, ref: Ref, why: str) -> BlobLost:
    return BlobLost(f"the {ref.field} in {files.where}/{ref.name} {why}")
