"""Blobs in a folder on the disk, beside the journal: ``up.blobs``."""

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
    """The folder of the blobs of a journal. Links are resolved."""
    return journal.resolve().with_suffix(".blobs")


class FolderBlobs:
    """Port `BlobFiles`. The folder is made with the first blob and kept open from then on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.where = str(folder)
        self._file = -1  # the descriptor of the folder, if it exists
        self._there = OpenFileCheck()

    def names(self) -> list[str]:
        """All blobs; files with other names are left out."""
        if not self._is_open():
            return []
        return [entry.name for entry in self._folder.iterdir() if _NAME.fullmatch(entry.name)]

    def write(self, name: str, data: bytes) -> None:
        """Write a new file, without a sync. Raises JournalGone, OSError."""
        self._make()
        file = os.open(name, _NEW, 0o600, dir_fd=self._file)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(file, view) :]
        except OSError:
            self.delete(name)
            raise
        finally:
            os.close(file)

    def bring_in(self, name: str, file: Path) -> None:
        """Add a file of another folder: as a hard link, or else as a copy.

        Raises JournalGone, OSError.
        """
        self._make()
        try:
            os.link(file, name, dst_dir_fd=self._file)
        except FileExistsError:  # it was added before
            pass
        except OSError:  # another file system, or one without hard links
            self.write(name, file.read_bytes())

    def sync(self, names: Sequence[str]) -> None:
        """Wait for the disk. A file that was deleted is noticed when it is read."""
        if not self._is_open():
            return
        try:
            for do in (_begin_writing, os.fdatasync):  # start all writes, then wait for each
                for name in names:
                    self._do(do, name)
        except OSError as error:
            if not is_out_of_descriptors(error):
                raise
            os.sync()  # syncs everything, and needs no descriptor
        else:
            os.fsync(self._file)

    def size(self, name: str) -> int:
        """How many bytes a file has. Raises NotRegular if it is a FIFO or the like."""
        return stat_regular(self._folder / name).st_size

    def pieces(self, name: str) -> Iterator[bytes]:
        """The content of a file, in pieces."""
        with (self._folder / name).open("rb", buffering=0) as file:
            while piece := file.read(READ_BYTES):
                yield piece

    def delete(self, name: str) -> None:
        """Delete a file, if it exists."""
        if self._is_open():
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._file)

    def check(self) -> None:
        """Compare the open folder with the one at its path."""
        self._there.check()

    def close(self) -> None:
        """Close the folder."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1
        self._there.close()

    def _make(self) -> None:
        """Open the folder; make it if it does not exist. Raises JournalGone, OSError."""
        try:
            if not self._is_open():
                self._folder.mkdir()
                sync_folder(self._folder.parent)
                self._is_open()
        except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
            # There is a file or a dangling link, or the parent folder was just renamed.
            raise JournalMoved(f"{self.where} is no folder, and none can be made there") from error
        self.check()

    def _is_open(self) -> bool:
        if self._file < 0:
            try:
                file = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
            try:
                self._there.add(self.where, os.stat)
            except OSError:
                os.close(file)
                raise
            self._file = file
        return True

    def _do(self, do: Callable[[int], None], name: str) -> None:
        with suppress(FileNotFoundError):
            file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._file)
            try:
                do(file)
            finally:
                os.close(file)


def _begin_writing(file: int) -> None:
    """Start writing a file's cached pages to the disk: on Linux this advice does."""
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
