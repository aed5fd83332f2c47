"""Connects to numeric addresses. An IPv6 address may have a zone (RFC 4007, 11): ``fe80::7%eth0``.

uvloop ignores zones: it would connect to a link-local address through any interface.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Union

from fractal_rm.domain.address import is_link_local

SocketAddress = Union[tuple[str, int], tuple[str, int, int, int]]


def socket_address(address: str, port: int) -> tuple[int, SocketAddress]:
    """The address family and the socket address; an IPv6 zone becomes a number.

    Raises socket.gaierror if this machine has no such zone.
    """
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    # Pass the address as bytes: Python would encode a str with IDNA, which fails for some zones.
    entries = socket.getaddrinfo(address.encode(), port, type=socket.SOCK_STREAM, flags=flags)
    family, _, _, _, target = entries[0]
    return family, target  # pyright: ignore[reportReturnType]


def describe_socket_error(address: str, error: OSError | UnicodeError) -> str:
    """Why binding or connecting to a numeric address failed, for people."""
    # These two errors have one cause: the C library or asyncio does not accept the zone.
    if isinstance(error, (socket.gaierror, UnicodeError)):
        _, _, zone = address.partition("%")
        return _describe_zone_error(zone)
    if error.errno == errno.EINVAL and is_link_local(address):
        return "a link-local address needs its interface, as in fe80::7%eth0"
    # Not `str(error)`: asyncio's text is always "Connect call failed".
    return os.strerror(error.errno) if error.errno else str(error)


def _describe_zone_error(zone: str) -> str:
    """Why the C library refuses a zone: it accepts interfaces for link-local addresses only."""
    if any(zone == name for _, name in socket.if_nameindex()):
        return f"only a link-local address may have an interface: leave out %{zone}"
    return f"there is no interface {zone!r} on this machine"


async def connect_socket(address: str, port: int) -> socket.socket:
    """Connect a TCP socket through the interface in the address. Raises OSError."""
    family, target = socket_address(address, port)
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        await _connect(sock, target)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect(sock: socket.socket, target: SocketAddress) -> None:
    code = sock.connect_ex(target)
    if code == errno.EINPROGRESS:
        await _wait_writable(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


async def _wait_writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    writable = asyncio.Event()
    loop.add_writer(sock, writable.set)
    try:
        _ = await writable.wait()
    finally:
        loop.remove_writer(sock)
