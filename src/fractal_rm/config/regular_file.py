"""Reads regular files up to a maximum size. Refuses all other files.

Opening a FIFO would block until another process writes. Reading a device may never end, and opening
some devices has effects. A file system that does not respond can still block the caller.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

# The maximum sizes of files.
FILE_BYTES = 16 * 1024 * 1024  # a file in the state folder
CONFIG_BYTES = 4 * 1024 * 1024  # a file of the configuration: about 100,000 lines
SECRET_BYTES = 1024 * 1024  # a file that a key of the configuration refers to

READ_BYTES = 64 * 1024  # bytes that one call of read() requests

# Modification time, size, inode and change time. Only the last shows a change of mode or owner.
Version = tuple[int, int, int, int]


class NotRegular(OSError):
    """The file is not a regular file."""


class TooLarge(OSError):
    """The file has more bytes than are allowed."""


def read_regular(path: Path, max_bytes: int = FILE_BYTES) -> bytes:
    """Return the content of a file. Raises OSError, such as NotRegular and TooLarge."""
    stat_regular(path)  # before open(), because opening a device may have effects
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    content = bytearray()
    try:
        _check_type(os.fstat(descriptor), path)  # the path may now belong to another file
        while piece := os.read(descriptor, READ_BYTES):
            content += piece
            if len(content) > max_bytes:
                raise TooLarge(
                    errno.EFBIG, f"the file has more than {max_bytes:,} bytes", str(path)
                )
    finally:
        os.close(descriptor)
    return bytes(content)


def stat_regular(path: Path) -> os.stat_result:
    """Return the result of stat(2) for a file. Raises OSError, such as NotRegular."""
    status = path.stat()
    _check_type(status, path)
    return status


def file_version(status: os.stat_result) -> Version:
    """Return a value that changes if the file is written, or replaced by any other file."""
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns


def versions_of(paths: Iterable[Path]) -> list[Version]:
    """The versions of files. Raises OSError, such as NotRegular."""
    return [file_version(stat_regular(path)) for path in paths]


def finding_code(error: OSError, default: str) -> str:
    """Return the finding code for NotRegular or TooLarge; ``default`` for any other error."""
    if isinstance(error, NotRegular):
        return "C231"
    return "C232" if isinstance(error, TooLarge) else default


def _check_type(status: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "not a file")
        raise NotRegular(errno.EINVAL, f"this is {kind}; only regular files are read", str(path))


_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
