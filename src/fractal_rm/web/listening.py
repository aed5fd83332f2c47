"""Opens listening sockets."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from contextlib import ExitStack

import msgspec

from fractal_rm.adapters.connect.numeric_address import describe_socket_error, socket_address
from fractal_rm.config.model import Rest
from fractal_rm.domain.address import is_loopback, read_address
from fractal_rm.domain.call import Origin
from fractal_rm.domain.errors import FractalError

BACKLOG = 1024
LOOPBACK = "127.0.0.1"


class CannotListen(FractalError):
    """The program cannot listen on an address. The message says what the user can do."""

    code = "cannot-listen"


class Listeners(msgspec.Struct, frozen=True):
    """The sockets that listen on a port, by host."""

    port: int
    by_host: Mapping[str, socket.socket]

    def conflict_with(self, host: str, port: int) -> bool:
        """Whether these sockets must be closed before a socket for ``host`` and ``port`` is opened.

        A socket for all addresses (``0.0.0.0``, ``::``) occupies the port for each address.
        """
        hosts = _listening_hosts(host)
        same_port = port == self.port and set(hosts) != set(self.by_host)
        return same_port and any(map(_is_unspecified, [*hosts, *self.by_host]))

    def accept(self, host: str, port: int | None) -> bool:
        """Whether one of these sockets accepts connections to ``host`` and ``port``.

        ``host`` must be an address of this machine.
        """
        host = _canonical(host)
        unspecified = {"::", "::" if ":" in host else "0.0.0.0"}
        return port == self.port and not self.by_host.keys().isdisjoint({host, *unspecified})


NO_LISTENERS = Listeners(0, {})


def listen(host: str, port: int, existing: Listeners) -> Listeners:
    """Listen on ``host``, and also on 127.0.0.1 if ``host`` is an address of another interface.

    ``0.0.0.0`` and ``::`` include 127.0.0.1, because ``::`` accepts IPv4, too. If a socket in
    ``existing`` has the same address, it is reused, so that clients can connect at any time.
    Raises CannotListen.
    """
    reusable = (existing if existing.port == port else NO_LISTENERS).by_host
    with ExitStack() as new_sockets:
        by_host = {
            each: reusable.get(each) or new_sockets.enter_context(_open(each, port))
            for each in _listening_hosts(host)
        }
        new_sockets.pop_all()  # keep the sockets open: only after an error, the block closes them
    return Listeners(port, by_host)


def protocol_at(rest: Rest, host: str) -> str:
    """The protocol that the node serves at one of its addresses: ``http`` or ``https``.

    If ``rest.host`` is another address, loopback is served without TLS, so that programs on this
    machine need no certificate.
    """
    is_added = host == LOOPBACK and LOOPBACK in _listening_hosts(rest.host)[1:]
    return "http" if is_added else rest.protocol


def _listening_hosts(host: str) -> list[str]:
    host = LOOPBACK if host == "localhost" else _canonical(host)
    return [host] if is_loopback(host) or _is_unspecified(host) else [host, LOOPBACK]


def _canonical(host: str) -> str:
    """Return the canonical form of an address, with its zone."""
    return f"{read_address(host) or host}{''.join(host.partition('%')[1:])}"


def _is_unspecified(host: str) -> bool:
    address = read_address(host)
    return address is not None and address.is_unspecified


def _open(host: str, port: int) -> socket.socket:
    try:
        return _open_socket(host, port)
    except OSError as error:
        reason = describe_socket_error(host, error)
        if error.errno == errno.EADDRINUSE:
            reason = "another program listens there; stop it, or set rest.port in comm.conf"
        elif error.errno == errno.EADDRNOTAVAIL:
            reason = "this machine does not have that address now; see rest.host in comm.conf"
        authority = str(Origin("http", host, port)).removeprefix("http://")
        raise CannotListen(f"cannot listen on {authority}: {reason}") from error


def _open_socket(host: str, port: int) -> socket.socket:
    family, address = socket_address(host, port)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(BACKLOG)  # may raise EADDRINUSE even if bind has succeeded
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
