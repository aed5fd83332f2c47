"""Blobs: large values of facts, each in a file of its own, so that it is written only once.

    write blobs ──> write the frame that refers to them ──> sync blobs, their folder, the log

A blob is written completely before the frame that refers to it, so a killed process leaves no
frame without its blobs. A power loss may, as the kernel writes in any order. So a frame is valid
only if its blobs are complete. A file that no frame refers to is deleted at a start.
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
    """A folder of files, each written once. All methods but ``check`` raise OSError.

    They may be called on any thread.
    """

    where: str  # the folder, for people

    def names(self) -> list[str]:
        """All blobs; empty if the folder was not made yet. Other files are left out."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a new file, without a sync; if that fails, the file is deleted."""
        ...

    def bring_in(self, name: str, file: Path) -> None:
        """Add a file of another folder: as a hard link, or else as a copy."""
        ...

    def sync(self, names: Sequence[str]) -> None:
        """Return when these files and their names survive a power loss."""
        ...

    def size(self, name: str) -> int:
        """How many bytes a file has."""
        ...

    def pieces(self, name: str) -> Iterator[bytes]:
        """The content of a file, in pieces of at most 64 KiB."""
        ...

    def delete(self, name: str) -> None:
        """Delete a file, if it exists. A power loss may bring it back."""
        ...

    def check(self) -> None:
        """Raise JournalGone if the open folder is no longer the one at its path."""
        ...

    def close(self) -> None:
        """Close the folder."""
        ...


class BlobLost(Exception):
    """A blob is missing or damaged; the message has the file and the reason."""


class Blobs:
    """The blobs of one log, and which of them are not synced yet. Readers share ``files``.

    All methods are called on the event loop except `sync`, which a thread may call at the same
    time as `written`.
    """

    def __init__(self, files: BlobFiles) -> None:
        self.files = files
        self._unsynced: list[str] = []

    def write(self, blobs: Iterable[Blob]) -> list[str]:
        """Write all of them or none; returns their names. Raises OSError."""
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
        """Delete blobs that no frame refers to. Raises OSError."""
        for name in names:
            self.files.delete(name)

    def note_written(self, names: Iterable[str]) -> None:
        """A frame now refers to these: the next `sync` includes them."""
        self._unsynced += names

    def sync(self) -> None:
        """Wait until all `written` blobs are durable. Raises OSError."""
        names = self._unsynced.copy()
        if names:
            self.files.sync(names)
            del self._unsynced[: len(names)]  # more may have been appended meanwhile

    def lost_in(self, body: bytes, *, is_synced: bool) -> str | None:
        """Why a frame is invalid because of its blobs; None: it is valid.

        ``is_synced``: the frame is known to be synced. Then only sizes are compared, else each
        blob is read.
        """
        lost = lost_in(self.files, body, verify_size if is_synced else read)
        if lost is None:
            self.note_written(ref.name for ref in records.blob_refs_of(body) if ref.name is not None)
        return lost


def lost_in(
    files: BlobFiles, body: bytes, verify: Callable[[BlobFiles, Ref], object]
) -> str | None:
    """Why a blob of a body is lost; None: all are valid."""
    try:
        for ref in records.blob_refs_of(body):
            verify(files, ref)
    except BlobLost as lost:
        return str(lost)
    return None


def read(files: BlobFiles, ref: Ref) -> bytes:
    """The value of a blob. Raises BlobLost, or OSError if it may still exist."""
    return b"".join(verified(files, ref))


def verified(files: BlobFiles, ref: Ref) -> Iterator[bytes]:
    """The pieces of a value, verified against its checksum at the end. Raises as `read`."""
    name, crc = verify_size(files, ref), 0
    try:
        for piece in files.pieces(name):
            crc = crc32(piece, crc)
            yield piece
    except OSError as error:
        raise _why(files, ref, error) from error
    if crc != ref.crc:
        raise _lost(files, ref, "does not match its checksum")


def verify_size(files: BlobFiles, ref: Ref) -> str:
    """Verify that it exists with the right size; returns its name. Raises as `read`."""
    if ref.name is None:
        raise BlobLost(f"the {ref.field} of {ref.size} bytes is lost, as a repair found")
    try:
        size = files.size(ref.name)
    except OSError as error:
        raise _why(files, ref, error) from error
    if size != ref.size:
        raise _lost(files, ref, f"has {size} of {ref.size} bytes")
    return ref.name


def _why(files: BlobFiles, ref: Ref, error: OSError) -> BlobLost | OSError:
    """The error to raise: BlobLost, or the OSError if only this process cannot read it now."""
    if isinstance(error, FileNotFoundError):
        return _lost(files, ref, "is missing")
    if error.errno in (EIO, EINVAL, EISDIR, ELOOP):  # a bad sector, or not a regular file
        return _lost(files, ref, f"cannot be read ({error.strerror})")
    return error


def _lost(files: BlobFiles, ref: Ref, why: str) -> BlobLost:
    return BlobLost(f"the {ref.field} in {files.where}/{ref.name} {why}")
