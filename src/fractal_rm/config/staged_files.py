"""Changes several files together: all of them, or none.

First, the new contents are written next to the files and synced. So a full disk or a missing
permission is found before the first file changes. `commit` then renames them. If an error follows
in the ``with`` block, the old contents are restored. A crash during `commit` may leave some files
unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import msgspec
from typing_extensions import Self

from fractal_rm.config.durable_files import copy_owner, sync_folder, write_beside
from fractal_rm.config.regular_file import read_regular
from fractal_rm.domain.errors import FractalError

PRIVATE = 0o600


class FilesNotWritten(FractalError):
    """Files cannot be written. The text says which one, why, and what was changed."""

    code = "files-not-written"


class FileChange(msgspec.Struct, frozen=True):
    """The new content of a file; None: delete it.

    With ``mode``, the file has these permissions. Without, the file must exist, and it keeps its
    mode and owner.
    """

    path: Path
    content: bytes | None
    mode: int | None = None


class StagedFiles:
    """Changes of files that are prepared in a ``with`` block, and written by `commit`.

    Raises FilesNotWritten.
    """

    def __init__(self, changes: Iterable[FileChange]) -> None:
        self._changes = list(changes)
        # Each file, and the temporary file with its new content; None: the file will be deleted.
        self._staged: list[tuple[Path, Path | None]] = []
        self._old: list[tuple[Path, bytes | None]] = []  # the contents before `commit`

    def __enter__(self) -> Self:
        try:
            for change in self._changes:
                self.add(change)
        except BaseException:
            self._discard()
            raise
        return self

    def add(self, change: FileChange) -> None:
        """Prepare one more change."""
        path = change.path.resolve()  # the target of a symbolic link, which stays a link
        try:
            staged = None
            if change.content is not None:
                _make_folder(path.parent)
                keep_mode = change.mode is None
                mode = PRIVATE if change.mode is None else change.mode
                staged = write_beside(path, change.content, keep_mode=keep_mode, mode=mode)
            self._staged.append((path, staged))
        except OSError as error:
            raise _not_written(path, error, "nothing was changed") from error

    def commit(self) -> None:
        """Write all prepared changes."""
        for path, staged in self._staged:
            try:
                self._old.append((path, _content(path)))
                if staged is None:
                    path.unlink(missing_ok=True)
                else:
                    staged.replace(path)
            except OSError as error:  # noqa: PERF203 - few files
                raise _not_written(path, error, "the other files were restored") from error
        self._staged = []
        for folder in {path.parent for path, _ in self._old}:
            sync_folder(folder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is not None:
            self._restore()
        self._discard()

    def _restore(self) -> None:
        while self._old:
            path, old = self._old.pop()
            try:
                if old is None:
                    path.unlink(missing_ok=True)
                elif _content(path) != old:
                    write_beside(path, old, keep_mode=True).replace(path)
            except OSError as error:
                text = f"and its old content cannot be restored: {error.strerror or error}"
                raise FilesNotWritten(f"{path} was changed, {text}") from error

    def _discard(self) -> None:
        for _, staged in self._staged:
            if staged is not None:
                with suppress(OSError):
                    staged.unlink(missing_ok=True)
        self._staged = []


def _make_folder(folder: Path, mode: int = 0o700) -> None:
    """Make a folder that only its owner can read. Made by root, it gets the owner of its parent.

    Missing parents can be read by others, too.
    """
    if folder.is_dir():
        return
    _make_folder(folder.parent, 0o777)
    folder.mkdir(mode=mode)
    if os.geteuid() == 0:
        copy_owner(folder.parent, folder)


def _content(path: Path) -> bytes | None:
    try:
        return read_regular(path)
    except FileNotFoundError:
        return None


def _not_written(path: Path, error: OSError, state: str) -> FilesNotWritten:
    reason = error.strerror or str(error)
    return FilesNotWritten(
        f"{path} cannot be written: {reason}; {state}. The user of the node must be able to write"
        " to this folder"
    )
