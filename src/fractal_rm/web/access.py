"""Access control by the address of the client.

Programs on this machine may send any request. Machines in ``rest.trusted_peers`` may only POST to
``rest.endpoint``, since originals hand runs off with this request, without a token or certificate.
Requests of other machines are refused. In all cases ``Host`` and ``Origin`` must name this machine,
so that a web page cannot start runs (DNS rebinding, CSRF).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Enum

import msgspec

from fractal_rm.config.model import Rest
from fractal_rm.domain.address import (
    Address,
    host_of_authority,
    is_loopback,
    is_within,
    read_address,
)
from fractal_rm.domain.handoff import CODE_PREFIX
from fractal_rm.web.head import Head, fault_in, requested_host, requested_path
from fractal_rm.web.own_address import is_own_address
from fractal_rm.web.peer_refusals import PeerRefusals
from fractal_rm.web.problems import Problem

# How many connections of untrusted machines may be open. Each gets a response with a refusal.
MAX_UNTRUSTED = 64
MAX_CACHED_HOSTS = 256  # values of Host and Origin that were accepted


class ClientKind(Enum):
    """The kind of a client, by its address."""

    LOCAL = "local"
    PEER = "peer"
    UNTRUSTED = "untrusted"


class Client(msgspec.Struct, frozen=True):
    """The client of a connection. It has connected to ``own_address``, an address of this machine.

    ``own_address`` is None if it cannot be read as an IP address.
    """

    address: str
    own_address: Address | None
    kind: ClientKind


class Access:
    """Decides whether a connection and a request are allowed.

    ``names`` returns the names of this node in nodes.conf; see `Config.own_names`.
    """

    def __init__(
        self, rest: Rest, names: Callable[[], Collection[str]], refusals: PeerRefusals
    ) -> None:
        self._rest = rest
        self._names = names
        self.refusals = refusals
        self._accepted_hosts: set[bytes] = set()
        self.untrusted_connections = 0

    def add_connection(self, address: str, own_address: str) -> Client:
        """Classify the client of a new connection, and count it if it is untrusted."""
        parsed = read_address(address)
        if parsed is None:
            kind = ClientKind.UNTRUSTED
        elif parsed.is_loopback:
            kind = ClientKind.LOCAL
        elif is_within(parsed, self._rest.trusted_peers):
            kind = ClientKind.PEER
        else:
            kind = ClientKind.UNTRUSTED
        self.untrusted_connections += kind is ClientKind.UNTRUSTED
        return Client(str(parsed or address), read_address(own_address), kind)

    def remove_connection(self, client: Client) -> None:
        """Note that the connection of the client is closed."""
        self.untrusted_connections -= client.kind is ClientKind.UNTRUSTED

    def reconfigured(self) -> None:
        """Clear cached names, as nodes.conf may have other names for this node now."""
        self._accepted_hosts.clear()

    def refusal(self, client: Client, head: Head) -> Problem | None:
        """Return the problem if the request must not be served, or None.

        Refusals of other machines are logged.
        """
        if client.kind is ClientKind.LOCAL:
            return fault_in(head) or self._wrong_host(client, head)
        refusal = self._forbidden(client, head) or fault_in(head) or self._wrong_host(client, head)
        if refusal is not None:
            request = (head.method + b" " + head.target).decode("latin-1")
            self.refusals.note(client.address, request, refusal.detail)
        return refusal

    def note_connection_refused(self, client: Client) -> None:
        """Log that an untrusted client was disconnected because there are too many such clients."""
        why = f"{MAX_UNTRUSTED} connections of machines that are not trusted are open"
        self.refusals.note(client.address, "a connection", why)

    def problem_for_unreadable(self, client: Client, problem: Problem) -> Problem:
        """Return the problem to send for an unreadable request; always 403 to untrusted clients."""
        if client.kind is not ClientKind.UNTRUSTED:
            return problem
        refusal = _refused(_not_trusted(client))
        self.refusals.note(client.address, "an unreadable request", refusal.detail)
        return refusal

    def _forbidden(self, client: Client, head: Head) -> Problem | None:
        if client.kind is ClientKind.UNTRUSTED:
            return _refused(_not_trusted(client))
        endpoint = self._rest.endpoint
        path = b"/" + requested_path(head).strip(b"/")
        if head.method == b"POST" and path == endpoint.encode():
            return None
        return _refused(f"other machines may only POST to {endpoint}")

    def _wrong_host(self, client: Client, head: Head) -> Problem | None:
        """Check Host and Origin (RFC 9110, 15.5.20)."""
        requested = requested_host(head)
        hosts = [] if requested is None else [("Host", requested)]
        hosts += [("Origin", origin.partition(b"://")[2]) for origin in head.origins]
        for field, host in hosts:
            if not self._is_own_host(client, host):
                shown = host[:60].decode("latin-1")
                why = f'{field} names "{shown}", which is not this machine'
                return Problem(CODE_PREFIX + "wrong-host", "Wrong host", 421, why)
        return None

    def _is_own_host(self, client: Client, host: bytes) -> bool:
        """Whether ``host[:port]`` names this machine.

        Names are cached. Addresses are not, because an address may move to another machine (VRRP).
        """
        if host in self._accepted_hosts:
            return True
        name = host_of_authority(host)
        if name is None:
            return False
        if self._is_own_name(name):
            if len(self._accepted_hosts) < MAX_CACHED_HOSTS:
                self._accepted_hosts.add(host)
            return True
        address = read_address(name) if self._has_peers else None
        return address is not None and (address == client.own_address or is_own_address(address))

    def _is_own_name(self, name: str) -> bool:
        """Whether a name is a name of this machine in the configuration in force."""
        if name == "localhost" or is_loopback(name):
            return True
        return self._has_peers and name in self._names()

    @property
    def _has_peers(self) -> bool:
        return bool(self._rest.trusted_peers)


def _not_trusted(client: Client) -> str:
    return f"{client.address} is not in rest.trusted_peers"


def _refused(why: str) -> Problem:
    return Problem(CODE_PREFIX + "peer-refused", "This client may not request this", 403, why)
