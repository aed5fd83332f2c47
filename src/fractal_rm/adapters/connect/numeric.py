"""Sockets to numeric addresses. An IPv6 one may have a zone (RFC 4007, 11): ``fe80::7%eth0``.

uvloop passes zones over, and would reach a link-local address by whatever interface comes first.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from typing import Union

SocketAddress = Union[tuple[str, int], tuple[str, int, int, int]]


def is_link_local(address: str) -> bool:
    """Whether it is an IPv6 address that counts on one interface only (RFC 4291, 2.5.6)."""
    found = ipaddress.ip_address(address)
    return found.version == 6 and found.is_link_local


def numeric(address: str, port: int) -> tuple[int, SocketAddress]:
    """A family and a socket's address; of an IPv6 one with its zone as a number.

    Raises socket.gaierror where this machine has no such zone.
    """
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=flags)
    family, _, _, _, where = found[0]
    return family, where  # pyright: ignore[reportReturnType]


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
