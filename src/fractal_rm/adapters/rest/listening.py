"""Opens the sockets that requests come in by."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack

from fractal_rm.domain.address import is_loopback, read_address
from fractal_rm.domain.call import Origin
from fractal_rm.domain.errors import FractalError

BACKLOG = 1024
LOOPBACK = "127.0.0.1"


class CannotListen(FractalError):
    """The address cannot be had; the text names the cure."""

    code = "cannot-listen"


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen at ``host`` and, where that is an address that others reach, at 127.0.0.1 too.

    ``0.0.0.0`` and ``::`` have that in them; ``::`` takes IPv4 as well. Raises CannotListen.
    """
    if host == "localhost":
        host = LOOPBACK
    address = read_address(host)
    everywhere = address is not None and address.is_unspecified
    hosts = [host] if is_loopback(host) or everywhere else [host, LOOPBACK]
    with ExitStack() as opened:
        listeners = [opened.enter_context(_listener(each, port)) for each in hosts]
        opened.pop_all()  # none is closed again: all are open
    return listeners


def _listener(host: str, port: int) -> socket.socket:
    try:
        return _listening(host, port)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            reason = "another program listens there; stop it, or set rest.port in comm.conf"
        elif error.errno == errno.EADDRNOTAVAIL:
            reason = "this machine does not have that address now; see rest.host in comm.conf"
        where = str(Origin("http", host, port)).removeprefix("http://")
        raise CannotListen(f"cannot listen on {where}: {reason}") from error


def _listening(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    family, _, _, _, where = found[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(where)
        listener.listen(BACKLOG)  # that the port is taken may come out only here
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
