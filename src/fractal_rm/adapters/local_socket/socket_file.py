"""The file of a local socket: makes it, and connects to it.

The kernel accepts at most 107 bytes as the path of a socket. A longer path is reached through a
descriptor of its folder: ``/proc/self/fd/7/up.sock``.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from fractal_rm.config.durable_files import copy_owner

MAX_PATH_BYTES = 107
MODE = 0o600  # whoever may write the file may connect
BACKLOG = 128


class NotASocket(OSError):
    """The path belongs to another kind of file, which is kept."""


def socket_path(state: Path, journal: str) -> Path:
    """The socket of the process that has the journal named ``journal``."""
    return state / f"{journal}.sock"


def listen(path: Path) -> socket.socket:
    """Make a socket that listens at ``path``. Raises OSError.

    The caller holds the lock of the journal. So an existing socket file belongs to a process that
    has ended, and is replaced.
    """
    if _is_other_file(path):
        raise NotASocket(f"{path} is not a socket; delete it")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with suppress(FileNotFoundError):
            temporary.unlink()
        with _short(temporary) as address:
            listener.bind(address)
        try:
            # Nobody can connect before `listen`, so the mode is never wider than this.
            temporary.chmod(MODE)
            if os.geteuid() == 0:
                copy_owner(path.parent, temporary)
            listener.listen(BACKLOG)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    except OSError:
        listener.close()
        raise
    return listener


def connect(path: Path) -> socket.socket:
    """Connect to the socket at ``path``.

    Raises OSError: FileNotFoundError and ConnectionRefusedError if no process listens there,
    BlockingIOError if too many others connect at this moment.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with _short(path) as address:
            connection.connect(address)
    except OSError:
        connection.close()
        raise
    return connection


@contextmanager
def _short(path: Path) -> Generator[str]:
    """An address of ``path`` that is short enough. It is valid in the block."""
    if len(os.fsencode(path)) <= MAX_PATH_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _is_other_file(path: Path) -> bool:
    try:
        return not stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return False
