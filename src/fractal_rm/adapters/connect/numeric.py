"""Sockets to numeric addresses. An IPv6 one may have a zone (RFC 4007, 11): ``fe80::7%eth0``.

uvloop passes zones over, and would reach a link-local address, also one without a zone, by whatever
interface comes first.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Union

from fractal_rm.domain.address import is_link_local

SocketAddress = Union[tuple[str, int], tuple[str, int, int, int]]


def numeric(address: str, port: int) -> tuple[int, SocketAddress]:
    """A family and a socket's address; of an IPv6 one with its zone as a number.

    Raises socket.gaierror where this machine has no such zone.
    """
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    # As bytes: a text would be encoded as a name (IDNA), which not every zone can be.
    found = socket.getaddrinfo(address.encode(), port, type=socket.SOCK_STREAM, flags=flags)
    family, _, _, _, where = found[0]
    return family, where  # pyright: ignore[reportReturnType]


def why_no_socket(address: str, error: OSError | UnicodeError) -> str:
    """Why there is no socket at a numeric address, or to it, for people."""
    # Of an address that can only be its zone: the C library has none, or asyncio cannot encode it.
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return _zone_words(address.partition("%")[2])
    if error.errno == errno.EINVAL and is_link_local(address):
        return "a link-local address needs its interface, as in fe80::7%eth0"
    # The text of asyncio is "Connect call failed", whatever it was.
    return os.strerror(error.errno) if error.errno else str(error)


def _zone_words(zone: str) -> str:
    """Why the C library takes no such zone: it takes names for link-local addresses only."""
    if any(zone == name for _, name in socket.if_nameindex()):
        return f"only a link-local address may have an interface: leave out %{zone}"
    return f"there is no interface {zone!r} to it here"


async def connected(address: str, port: int) -> socket.socket:
    """A TCP socket that is connected, by the interface that the address names. Raises OSError."""
    family, where = numeric(address, port)
    opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        await _connect(opened, where)
    except BaseException:
        opened.close()
        raise
    return opened


async def _connect(opened: socket.socket, where: SocketAddress) -> None:
    code = opened.connect_ex(where)
    if code == errno.EINPROGRESS:
        await _writable(opened)
        code = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


async def _writable(opened: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    writable = asyncio.Event()
    loop.add_writer(opened, writable.set)
    try:
        _ = await writable.wait()
    finally:
        loop.remove_writer(opened)
