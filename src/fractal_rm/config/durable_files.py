"""Replaces small files atomically: after a crash, the file has its old or its new content."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path


def replace_file(
    path: Path, content: bytes, *, keep_mode: bool = False, mode: int | None = None
) -> None:
    """Replace ``path`` atomically and durably. Blocks for the disk. Raises OSError.

    With ``keep_mode``, the new file gets the mode and the owner of the old one. Otherwise, a file
    written by root gets the owner of its folder, who must be able to read it. ``mode``: the
    permissions of the new file, from the beginning.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)  # left by an earlier process with the same id
        with temporary.open("xb", opener=_opener(mode)) as file:
            if keep_mode:
                shutil.copymode(path, temporary)
                _give_to_owner_of(path, temporary)
            elif os.geteuid() == 0:
                _give_to_owner_of(path.parent, temporary)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(path: Path) -> None:
    """Wait until the entries of a folder are on the disk. Raises OSError.

    A new file survives a power cut only after its folder was written to the disk too.
    """
    _sync(path, os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Wait until the content of a file is on the disk. Raises OSError."""
    _sync(path, 0)


def _sync(path: Path, kind: int) -> None:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | kind)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _opener(mode: int | None) -> Callable[[str, int], int] | None:
    return None if mode is None else partial(os.open, mode=mode)


def _give_to_owner_of(other: Path, temporary: Path) -> None:
    owned = other.stat()
    mine = temporary.stat()
    if (owned.st_uid, owned.st_gid) != (mine.st_uid, mine.st_gid):
        os.chown(temporary, owned.st_uid, owned.st_gid)
