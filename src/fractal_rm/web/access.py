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

from fractal_rm.config.model import Rest
from fractal_rm.domain.address import Address, host_in, is_loopback, is_within, read_address
from fractal_rm.web.head import Head, asked_host, asked_path, fault_in
from fractal_rm.web.peer_refusals import PeerRefusals
from fractal_rm.web.problems import Problem

MAX_STRANGERS = 64  # connections of machines that are not trusted, each for one refusal
MOST_KNOWN = 256  # values of Host and Origin that were found right, and stay so

_ANY_PORT = 9


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
    """``names``: those that nodes.conf has for this node; see `Config.own_names`."""

    def __init__(
        self, rest: Rest, names: Callable[[], Collection[str]], refusals: PeerRefusals
    ) -> None:
        self._rest = rest
        self._names = names
        self.refusals = refusals
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
        """Why a client is not served, if so."""
        if client.standing is Standing.LOCAL:
            return fault_in(head) or self._misdirected(client, head)
        refusal = self._forbidden(client, head) or fault_in(head) or self._misdirected(client, head)
        if refusal is not None:
            asked = (head.method + b" " + head.target).decode("latin-1")
            self.refusals.note(client.address, asked, refusal.detail)
        return refusal

    def turn_away(self, client: Client) -> None:
        """A stranger is not even listened to: there are too many of them."""
        why = f"{MAX_STRANGERS} connections of machines that are not trusted are open"
        self.refusals.note(client.address, "a connection", why)

    def answer_to_unread(self, client: Client, answer: Problem) -> Problem:
        """What is answered to a head that cannot be read; a stranger is refused all the same."""
        if client.standing is not Standing.STRANGER:
            return answer
        refusal = _refused(_not_trusted(client))
        self.refusals.note(client.address, "what cannot be read", refusal.detail)
        return refusal

    def _forbidden(self, client: Client, head: Head) -> Problem | None:
        endpoint = self._rest.endpoint
        if client.standing is Standing.STRANGER:
            why = _not_trusted(client)
        elif head.method == b"POST" and b"/" + asked_path(head).strip(b"/") == endpoint.encode():
            return None
        else:
            why = f"other machines may POST to {endpoint}, and nothing else"
        return _refused(why)

    def _misdirected(self, client: Client, head: Head) -> Problem | None:
        """RFC 9110, 15.5.20."""
        asked = asked_host(head)
        named = [] if asked is None else [("Host", asked)]
        named += [("Origin", origin.partition(b"://")[2]) for origin in head.origins]
        for field, host in named:
            if not self._is_own(client, host):
                said = host[:60].decode("latin-1")
                why = f'{field} names "{said}", which is not this machine'
                return Problem("urn:fractal-rm:wrong-host", "This is not for us", 421, why)
        return None

    def _is_own(self, client: Client, host: bytes) -> bool:
        """Whether ``host[:port]`` names this machine: an address may move to another one (VRRP)."""
        if host in self._known:
            return True
        name = host_in(host)
        if name is None:
            return False
        if self._is_name_of_ours(name):
            if len(self._known) < MOST_KNOWN:
                self._known.add(host)
            return True
        address = read_address(name) if self._has_peers else None
        return address is not None and (address == client.here or is_of_this_machine(address))

    def _is_name_of_ours(self, name: str) -> bool:
        """Whether it stays ours as long as the configuration stays as it is."""
        if name == "localhost" or is_loopback(name):
            return True
        return self._has_peers and name in self._names()

    @property
    def _has_peers(self) -> bool:
        return bool(self._rest.trusted_peers)


def _not_trusted(client: Client) -> str:
    return f"{client.address} is not in rest.trusted_peers"


def _refused(why: str) -> Problem:
    return Problem("urn:fractal-rm:peer-refused", "That is not open to you", 403, why)


def is_of_this_machine(address: Address) -> bool:
    """Whether an address is one of ours now."""
    if address.is_unspecified or address.is_multicast:
        return False
    try:
        if address.version == 4:
            return _sends_to_itself(str(address))
        # A link-local address may be that of any interface.
        zones = [index for index, _ in socket.if_nameindex()] if address.is_link_local else [0]
        return any(_is_sent_to_from_itself(str(address), zone) for zone in zones)
    except OSError:  # which interfaces there are is not told
        return False


def _sends_to_itself(address: str) -> bool:
    """From no other address can a socket do so; that of a whole network can only be bound."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
            probe.connect(probe.getsockname())
    except OSError:
        return False
    return True


def _is_sent_to_from_itself(address: str, zone: int) -> bool:
    """What the system sends to one of ours comes from there (RFC 6724, 5, rule 1).

    It does not tell by bind: of IPv6, ``ip_nonlocal_bind`` lets any address send to itself.
    """
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect((address, _ANY_PORT, 0, zone))  # sends nothing
            return read_address(probe.getsockname()[0]) == read_address(address)
    except OSError:
        return False
