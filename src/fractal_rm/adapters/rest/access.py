"""Who may ask for what.

Programs of this machine may ask for everything. Machines in ``rest.trusted_peers`` may POST to
``rest.endpoint``, as an original's hand-off does, which can show neither a token nor a certificate.
Others may ask for nothing. Whoever asks, the request must be meant for this machine: a page in a
browser must not be able to start runs (DNS rebinding, CSRF).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from enum import Enum

import msgspec

from fractal_rm.adapters.rest.head import Head, asked_host, asked_path, host_in
from fractal_rm.adapters.rest.peer_refusals import PeerRefusals
from fractal_rm.adapters.rest.problems import Problem
from fractal_rm.config.model import Rest
from fractal_rm.domain.address import Address, is_within, read_address

MAX_STRANGERS = 64  # connections of machines that are not trusted, each for one refusal
MOST_KNOWN = 256  # values of Host and Origin that were found right


class Standing(Enum):
    """What a client is, by the address that its connection comes from."""

    LOCAL = "local"
    PEER = "peer"
    STRANGER = "stranger"


class Client(msgspec.Struct, frozen=True):
    """The other end of a connection; ``here`` is the address of ours that it reached."""

    address: str
    here: Address | None
    standing: Standing


class Access:
    """``names``: those that nodes.conf has for this node, in lower case."""

    def __init__(
        self, rest: Rest, names: Callable[[], Collection[str]], refusals: PeerRefusals
    ) -> None:
        self._rest = rest
        self._names = names
        self._refusals = refusals
        self._known: set[bytes] = set()
        self.strangers = 0

    def connected(self, address: str, here: str) -> Client:
        """Somebody has connected from an address to one of ours."""
        theirs = read_address(address)
        if theirs is None:
            standing = Standing.STRANGER
        elif theirs.is_loopback:
            standing = Standing.LOCAL
        elif is_within(theirs, self._rest.trusted_peers):
            standing = Standing.PEER
        else:
            standing = Standing.STRANGER
        self.strangers += standing is Standing.STRANGER
        return Client(str(theirs or address), read_address(here), standing)

    def disconnected(self, client: Client) -> None:
        """Its connection is gone."""
        self.strangers -= client.standing is Standing.STRANGER

    def reconfigured(self) -> None:
        """nodes.conf may have other names for this node now."""
        self._known.clear()

    def refusal(self, client: Client, head: Head) -> Problem | None:
        """Why a client may not ask this, if so."""
        if client.standing is not Standing.LOCAL:
            forbidden = self._forbidden(client, head)
            if forbidden is not None:
                return forbidden
        asked = asked_host(head)
        if asked is not None and not self._is_own(client, asked):
            return _wrong_host("Host")
        for origin in head.origins:
            if not self._is_own(client, origin.partition(b"://")[2]):
                return _wrong_host("Origin")
        return None

    def _forbidden(self, client: Client, head: Head) -> Problem | None:
        endpoint = self._rest.endpoint
        if client.standing is Standing.STRANGER:
            why = f"{client.address} is not in rest.trusted_peers"
        elif head.method == b"POST" and b"/" + asked_path(head).strip(b"/") == endpoint.encode():
            return None
        else:
            why = f"other machines may POST to {endpoint}, and nothing else"
        self._refusals.note(
            client.address, (head.method + b" " + head.target).decode("latin-1"), why
        )
        return Problem("urn:fractal-rm:peer-refused", "That is not open to you", 403, why)

    def _is_own(self, client: Client, host: bytes) -> bool:
        """Whether ``host[:port]`` names this machine."""
        if host in self._known:
            return True
        name = host_in(host)
        own = name is not None and self._names_us(client, name)
        if own and len(self._known) < MOST_KNOWN:
            self._known.add(host)
        return own

    def _names_us(self, client: Client, name: str) -> bool:
        address = read_address(name)
        if address is None:
            return name == "localhost" or (self._has_peers and name in self._names())
        if address.is_loopback:
            return True
        return self._has_peers and (address == client.here or is_of_this_machine(address))

    @property
    def _has_peers(self) -> bool:
        return bool(self._rest.trusted_peers)


def is_of_this_machine(address: Address) -> bool:
    """Whether an address is one of ours now: no other can be bound to."""
    if address.is_unspecified or address.is_multicast:
        return False
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def _wrong_host(name: str) -> Problem:
    """RFC 9110, 15.5.20."""
    detail = f"{name} names another machine"
    return Problem("urn:fractal-rm:wrong-host", "This is not for us", 421, detail)
