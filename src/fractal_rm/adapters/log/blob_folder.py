"""Blobs as files in a folder next to the journal: ``up.blobs`` for ``up.journal``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from fractal_rm.adapters.open_file_check import OpenFileCheck
from fractal_rm.config.durable_files import sync_folder
from fractal_rm.config.regular_file import READ_BYTES, stat_regular
from fractal_rm.domain.descriptors import is_out_of_descriptors
from fractal_rm.domain.journal_errors import JournalMoved

_NAME = re.compile("[0-9a-f]{32}")  # see `Log.new_blob_name`
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def blob_folder(journal: Path) -> Path:
    """The folder for the blobs of a journal. Symbolic links are resolved."""
    return journal.resolve().with_suffix(".blobs")


class FolderBlobs:
    """Port `BlobFiles`. The folder is created with the first blob, and stays open afterwards."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.where = str(folder)
        self._folder_fd = -1  # the descriptor of the folder; -1: it is not open
        self._path_check = OpenFileCheck()

    def names(self) -> list[str]:
        """The names of all blobs; files with other names are left out."""
        if not self._open_if_exists():
            return []
        return [entry.name for entry in self._folder.iterdir() if _NAME.fullmatch(entry.name)]

    def write(self, name: str, data: bytes) -> None:
        """Write a new file, without a sync. Raises JournalMoved, OSError."""
        self._make()
        file = os.open(name, _NEW, 0o600, dir_fd=self._folder_fd)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(file, view) :]
        except OSError:
            self.delete(name)
            raise
        finally:
            os.close(file)

    def link_or_copy(self, name: str, file: Path) -> None:
        """Add a file from another folder as a hard link, or as a copy if linking fails.

        Raises JournalMoved, OSError.
        """
        self._make()
        try:
            os.link(file, name, dst_dir_fd=self._folder_fd)
        except FileExistsError:  # the file was already added
            pass
        except OSError:  # another file system, or a file system without hard links
            self.write(name, file.read_bytes())

    def sync(self, names: Sequence[str]) -> None:
        """Wait until the files are on the disk. Deleted files are skipped."""
        if not self._open_if_exists():
            return
        try:
            for call in (_begin_writing, os.fdatasync):  # start all writes, then wait for each
                for name in names:
                    self._call_with_file(call, name)
        except OSError as error:
            if not is_out_of_descriptors(error):
                raise
            os.sync()  # this syncs all file systems, and needs no file descriptor
        else:
            os.fsync(self._folder_fd)

    def size(self, name: str) -> int:
        """The size of a file in bytes. Raises NotRegular if it is not a regular file."""
        return stat_regular(self._folder / name).st_size

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield the content of a file in pieces."""
        with (self._folder / name).open("rb", buffering=0) as file:
            while piece := file.read(READ_BYTES):
                yield piece

    def delete(self, name: str) -> None:
        """Delete a file, if it exists."""
        if self._open_if_exists():
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._folder_fd)

    def check(self) -> None:
        """Raise JournalMoved if the open folder is no longer the folder at its path."""
        self._path_check.check()

    def close(self) -> None:
        """Close the folder."""
        if self._folder_fd >= 0:
            os.close(self._folder_fd)
        self._folder_fd = -1
        self._path_check.close()

    def _make(self) -> None:
        """Open the folder, or create it if it does not exist. Raises JournalMoved, OSError."""
        try:
            if not self._open_if_exists():
                self._folder.mkdir()
                sync_folder(self._folder.parent)
                self._open_if_exists()
        except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
            # The path is a file or a dangling link, or the parent folder was just renamed.
            raise JournalMoved(
                f"{self.where} is not a folder, and no folder can be created there"
            ) from error
        self.check()

    def _open_if_exists(self) -> bool:
        """Open the folder if it is not open yet. Returns false if it does not exist."""
        if self._folder_fd < 0:
            try:
                file = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
            try:
                self._path_check.add(self.where, os.stat)
            except OSError:
                os.close(file)
                raise
            self._folder_fd = file
        return True

    def _call_with_file(self, call: Callable[[int], None], name: str) -> None:
        with suppress(FileNotFoundError):
            file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._folder_fd)
            try:
                call(file)
            finally:
                os.close(file)


def _begin_writing(file: int) -> None:
    """Make Linux begin to write the cached pages of a file to the disk. Does not wait."""
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
