"""Replaces small files atomically: after a crash, a file has either its old or its new content."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def replace_file(path: Path, content: bytes, *, keep_mode: bool = False, mode: int = 0o666) -> None:
    """Replace the file at ``path`` atomically. Waits for the disk. Raises OSError.

    The arguments are those of `write_beside`.
    """
    temporary = write_beside(path, content, keep_mode=keep_mode, mode=mode)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_beside(path: Path, content: bytes, *, keep_mode: bool = False, mode: int = 0o666) -> Path:
    """Write a new file in the folder of ``path``, to be renamed to ``path``. Returns its path.

    Waits for the disk. Raises OSError. With ``keep_mode``, the new file gets the mode and the owner
    of the old file. Otherwise, if the process runs as root, the file gets the owner of its folder,
    who must be able to read the file. ``mode`` are the permissions of the new file, from the moment
    when it is created.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)  # left behind by an earlier process with the same id
        with os.fdopen(os.open(temporary, _NEW_FILE, mode), "wb") as file:
            if keep_mode:
                shutil.copymode(path, temporary)
                copy_owner(path, temporary)
            elif os.geteuid() == 0:
                copy_owner(path.parent, temporary)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def sync_folder(path: Path) -> None:
    """Wait until the entries of a folder are on the disk. Raises OSError.

    Without this, a new file may be missing after a power loss, even if its content was synced.
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


def copy_owner(source: Path, target: Path) -> None:
    """Give a file or folder the owner and the group of another one. Raises OSError."""
    source_status, status = source.stat(), target.stat()
    if (source_status.st_uid, source_status.st_gid) != (status.st_uid, status.st_gid):
        os.chown(target, source_status.st_uid, source_status.st_gid)
