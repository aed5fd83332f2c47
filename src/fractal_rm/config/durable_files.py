"""Replaces small files atomically: after a crash, the file has its old or its new content."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def replace_file(path: Path, content: bytes, *, keep_mode: bool = False) -> None:
    """Replace the file at ``path`` atomically. Waits for the disk. Raises OSError.

    With ``keep_mode``, the new file gets the mode and the owner of the old one. Without it, a file
    that root writes gets the owner of its folder, because this user must be able to read the file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)  # an earlier process with the same id may have left it
        with temporary.open("xb") as file:
            if keep_mode:
                shutil.copymode(path, temporary)
                _copy_owner(path, temporary)
            elif os.geteuid() == 0:
                _copy_owner(path.parent, temporary)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(path: Path) -> None:
    """Wait until the entries of a folder are on the disk. Raises OSError.

    After a power loss, a new file exists only if its folder had been written to the disk, too.
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


def _copy_owner(source: Path, target: Path) -> None:
    wanted, current = source.stat(), target.stat()
    if (wanted.st_uid, wanted.st_gid) != (current.st_uid, current.st_gid):
        os.chown(target, wanted.st_uid, wanted.st_gid)
