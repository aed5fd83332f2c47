"""Blobs: large values of facts. Each blob is a file, which the log and the history refer to.

    write blobs ──> write the frame that refers to them ──> sync blobs, their folder, the log

A blob is written completely before the frame that refers to it. So a killed process leaves no frame
without its blobs. A power loss may leave such a frame, as the kernel writes files in any order. So
a frame is valid only if its blobs are complete. A start deletes the files of blobs that are not
referred to.
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
    """A folder of files that are written once. All methods except ``check`` may raise OSError.

    The methods may be called on any thread.
    """

    where: str  # the folder, as shown in messages

    def names(self) -> list[str]:
        """The names of all blobs; empty if there is no folder yet. Other files are left out."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a new file without a sync. Delete the file if the write fails."""
        ...

    def link_or_copy(self, name: str, file: Path) -> None:
        """Add a file from another folder as a hard link, or as a copy if linking fails."""
        ...

    def sync(self, names: Sequence[str]) -> None:
        """Return when these files and their names survive a power loss."""
        ...

    def size(self, name: str) -> int:
        """The size of a file in bytes."""
        ...

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield the content of a file in pieces of at most 64 KiB."""
        ...

    def delete(self, name: str) -> None:
        """Delete a file if it exists. The file may exist again after a power loss."""
        ...

    def check(self) -> None:
        """Raise JournalMoved if the open folder is no longer the folder at its path."""
        ...

    def close(self) -> None:
        """Close the folder."""
        ...


class BlobLost(Exception):
    """A blob is missing or damaged. The message names the file and the reason."""


class Blobs:
    """Writes and syncs the blobs of one log. Readers use ``files`` directly.

    Call all methods on the event loop, except `sync`: a thread may call it at the same time as
    `note_written`.
    """

    def __init__(self, files: BlobFiles) -> None:
        self.files = files
        self._unsynced: list[str] = []

    def write(self, blobs: Iterable[Blob]) -> list[str]:
        """Write all blobs, or none if a write fails. Returns their names. Raises OSError."""
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
        """Add blobs to the next `sync`, as a frame refers to them now."""
        self._unsynced += names

    def sync(self) -> None:
        """Wait until all blobs of `note_written` are durable. Raises OSError."""
        names = self._unsynced.copy()
        if names:
            self.files.sync(names)
            del self._unsynced[: len(names)]  # names may have been appended during the sync

    def find_lost_blob(self, body: bytes, *, is_synced: bool) -> str | None:
        """A message about a lost blob of a frame; None: all blobs of the frame are valid.

        ``is_synced``: the frame is known to be synced. Then only the sizes of the blobs are
        compared. Otherwise each blob is read. If no blob is lost, the next `sync` syncs the blobs.
        """
        verify = verify_size if is_synced else read
        message = find_lost_blob(self.files, body, verify)
        if message is None:
            self.note_written(
                ref.name for ref in records.blob_refs_of(body) if ref.name is not None
            )
        return message


def find_lost_blob(
    files: BlobFiles, body: bytes, verify: Callable[[BlobFiles, Ref], object]
) -> str | None:
    """A message about a lost blob of a body; None: all its blobs are valid."""
    try:
        for ref in records.blob_refs_of(body):
            verify(files, ref)
    except BlobLost as lost:
        return str(lost)
    return None


def read(files: BlobFiles, ref: Ref) -> bytes:
    """Read a blob. Raises BlobLost, or OSError if a later read may succeed."""
    return b"".join(verified_pieces(files, ref))


def verified_pieces(files: BlobFiles, ref: Ref) -> Iterator[bytes]:
    """Yield a blob in pieces. Verifies the checksum at the end. Raises the errors of `read`."""
    name, crc = verify_size(files, ref), 0
    try:
        for piece in files.pieces(name):
            crc = crc32(piece, crc)
            yield piece
    except OSError as error:
        raise _read_error(files, ref, error) from error
    if crc != ref.crc:
        raise _lost(files, ref, "does not match its checksum")


def verify_size(files: BlobFiles, ref: Ref) -> str:
    """Verify the size of a blob. Returns its name. Raises the errors of `read`."""
    if ref.name is None:
        raise BlobLost(f"the {ref.field} of {ref.size} bytes is lost, as a repair found")
    try:
        size = files.size(ref.name)
    except OSError as error:
        raise _read_error(files, ref, error) from error
    if size != ref.size:
        raise _lost(files, ref, f"has {size} of {ref.size} bytes")
    return ref.name


def _read_error(files: BlobFiles, ref: Ref, error: OSError) -> BlobLost | OSError:
    """The error to raise: BlobLost, or the OSError if a later read may succeed."""
    if isinstance(error, FileNotFoundError):
        return _lost(files, ref, "is missing")
    if error.errno in (EIO, EINVAL, EISDIR, ELOOP):  # a bad sector, or not a regular file
        return _lost(files, ref, f"cannot be read ({error.strerror})")
    return error


def _lost(files: BlobFiles, ref: Ref, reason: str) -> BlobLost:
    return BlobLost(f"the {ref.field} in {files.where}/{ref.name} {reason}")
