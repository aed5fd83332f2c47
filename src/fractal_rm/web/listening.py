"""Opens the sockets that requests come in by."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from contextlib import ExitStack

import msgspec

from fractal_rm.adapters.connect.numeric import numeric, why_no_socket
from fractal_rm.domain.address import is_loopback, read_address
from fractal_rm.domain.call import Origin
from fractal_rm.domain.errors import FractalError

BACKLOG = 1024
LOOPBACK = "127.0.0.1"


class CannotListen(FractalError):
    """The address cannot be had; the text names the cure."""

    code = "cannot-listen"


class Listeners(msgspec.Struct, frozen=True):
    """Sockets that listen, by their addresses."""

    port: int
    by_host: Mapping[str, socket.socket]

    def are_in_the_way(self, host: str, port: int) -> bool:
        """Whether the address cannot be had while these are open, although it is another one.

        Whoever listens at all addresses has the port of each (``0.0.0.0``, ``::``).
        """
        hosts = _hosts(host)
        shared = port == self.port and set(hosts) != set(self.by_host)
        return shared and any(map(_is_everywhere, [*hosts, *self.by_host]))

    def reach(self, host: str, port: int | None) -> bool:
        """Whether a client that connects to an address of this machine comes to one of these."""
        host = _as_always_written(host)
        every = {"::", "::" if ":" in host else "0.0.0.0"}
        return port == self.port and not self.by_host.keys().isdisjoint({host, *every})


NO_LISTENERS = Listeners(0, {})


def listen(host: str, port: int, held: Listeners) -> Listeners:
    """Listen at ``host`` and, where that is an address that others reach, at 127.0.0.1 too.

    ``0.0.0.0`` and ``::`` have that in them; ``::`` takes IPv4 as well. What is wanted of ``held``
    is kept, so that no client is refused meanwhile. Raises CannotListen.
    """
    kept = (held if held.port == port else NO_LISTENERS).by_host
    with ExitStack() as opened:
        by_host = {
            each: kept[each] if each in kept else opened.enter_context(_listener(each, port))
            for each in _hosts(host)
        }
        opened.pop_all()  # none is closed again: all are open
    return Listeners(port, by_host)


def _hosts(host: str) -> list[str]:
    """Where to listen."""
    host = LOOPBACK if host == "localhost" else _as_always_written(host)
    return [host] if is_loopback(host) or _is_everywhere(host) else [host, LOOPBACK]


def _as_always_written(host: str) -> str:
    """One text for each address, with its zone."""
    return f"{read_address(host) or host}{''.join(host.partition('%')[1:])}"


def _is_everywhere(host: str) -> bool:
    address = read_address(host)
    return address is not None and address.is_unspecified


def _listener(host: str, port: int) -> socket.socket:
    try:
        return _listening(host, port)
    except OSError as error:
        reason = why_no_socket(host, error)
        if error.errno == errno.EADDRINUSE:
            reason = "another program listens there; stop it, or set rest.port in comm.conf"
        elif error.errno == errno.EADDRNOTAVAIL:
            reason = "this machine does not have that address now; see rest.host in comm.conf"
        where = str(Origin("http", host, port)).removeprefix("http://")
        raise CannotListen(f"cannot listen on {where}: {reason}") from error


def _listening(host: str, port: int) -> socket.socket:
    family, where = numeric(host, port)
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
