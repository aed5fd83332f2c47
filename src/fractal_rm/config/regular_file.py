"""Files that people name or make: only regular ones are read, and so much of one as is agreed.

Who opens a FIFO waits until somebody writes, a device may give without end, and what opens some of
them does something. A file system that does not answer holds up all the same whoever asks it.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

FILE_BYTES = 16 * 1024 * 1024  # of a file of the state folder
CONFIG_BYTES = 4 * 1024 * 1024  # of a file of the configuration: a hundred thousand lines
SECRET_BYTES = 1024 * 1024  # of a file that a key refers to

READ_BYTES = 64 * 1024  # at once

# Moment, size, inode; and the moment of the inode, which is all that a new mode or owner changes.
Version = tuple[int, int, int, int]


class NotRegular(OSError):
    """It is something else than a file with a content and an end."""


class TooLarge(OSError):
    """It has more bytes than are read."""


def read_regular(path: Path, at_most: int = FILE_BYTES) -> bytes:
    """The content of a file. Raises OSError: NotRegular, TooLarge where it is not read."""
    stat_regular(path)  # before it is opened, as that may be too much already
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    content = bytearray()
    try:
        _check(os.fstat(descriptor), path)  # it may be another one now
        while piece := os.read(descriptor, READ_BYTES):
            content += piece
            if len(content) > at_most:
                raise TooLarge(errno.EFBIG, f"it has more than {at_most:,} bytes", str(path))
    finally:
        os.close(descriptor)
    return bytes(content)


def stat_regular(path: Path) -> os.stat_result:
    """What the system knows about a file. Raises OSError: NotRegular where it would not be read."""
    found = path.stat()
    _check(found, path)
    return found


def version_of(found: os.stat_result) -> Version:
    """What differs once a file has been written or replaced, also by an older one."""
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns


def code_of(error: OSError, otherwise: str) -> str:
    """The code of the finding that says so."""
    if isinstance(error, NotRegular):
        return "C231"
    return "C232" if isinstance(error, TooLarge) else otherwise


def _check(found: os.stat_result, path: Path) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "no file")
        raise NotRegular(errno.EINVAL, f"it is {kind}; only regular files are read", str(path))


_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
