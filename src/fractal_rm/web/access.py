"""Access control by the address of the client.

Programs on this machine may send any request. Machines in ``rest.trusted_peers`` may only POST to
``rest.endpoint``. They are known by their address only, because the original Runtime Manager hands
off runs with this request, and sends no token or certificate. Requests of all other machines are
refused. ``Host`` and ``Origin`` of each request must name this machine, so that a web page cannot
start runs (DNS rebinding, CSRF).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Enum

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

# How many connections of untrusted machines may be open. Their requests get a refusal. Further
# connections are aborted.
MAX_UNTRUSTED = 64
MAX_CACHED_HOSTS = 256  # how many accepted values of Host and Origin are cached


class ClientKind(Enum):
    """The kind of a client, by its address."""

    LOCAL = "local"
    PEER = "peer"
    UNTRUSTED = "untrusted"


class Access:
    """Decides which connections and requests are allowed.

    ``names`` returns the names of this node in nodes.conf; see `Config.own_names`.
    """

    def __init__(
        self, rest: Rest, names: Callable[[], Collection[str]], refusals: PeerRefusals
    ) -> None:
        self.rest = rest
        self.refusals = refusals
        self._names = names
        self._accepted_hosts: set[bytes] = set()
        self.untrusted_connections = 0

    def connected(self, address: str, own_address: str) -> Client:
        """Return the client of a new connection. Counts it if it is untrusted.

        ``own_address`` is the address of this machine to which the client has connected.
        """
        parsed = read_address(address)
        if parsed is None:
            kind = ClientKind.UNTRUSTED
        elif parsed.is_loopback:
            kind = ClientKind.LOCAL
        elif is_within(parsed, self.rest.trusted_peers):
            kind = ClientKind.PEER
        else:
            kind = ClientKind.UNTRUSTED
        self.untrusted_connections += kind is ClientKind.UNTRUSTED
        return Client(self, str(parsed or address), read_address(own_address), kind)

    def reconfigured(self) -> None:
        """Clear the cached names, because nodes.conf may have new names for this node."""
        self._accepted_hosts.clear()

    def is_own_host(self, host: bytes, own_address: Address | None) -> bool:
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
        address = read_address(name) if self.rest.trusted_peers else None
        return address is not None and (address == own_address or is_own_address(address))

    def _is_own_name(self, name: str) -> bool:
        """Whether a name means this machine, by the configuration in force."""
        if name == "localhost" or is_loopback(name):
            return True
        return bool(self.rest.trusted_peers) and name in self._names()


class Client:
    """The client of a connection, and what it may request."""

    __slots__ = ("_access", "_address", "_own_address", "kind")

    def __init__(
        self, access: Access, address: str, own_address: Address | None, kind: ClientKind
    ) -> None:
        self._access = access
        self._address = address
        self._own_address = own_address
        self.kind = kind

    def disconnected(self) -> None:
        """Note that the connection is closed."""
        self._access.untrusted_connections -= self.kind is ClientKind.UNTRUSTED

    def refusal(self, head: Head) -> Problem | None:
        """The problem to send if the request must not be served, otherwise None.

        Logs the refusal of a request of another machine.
        """
        if self.kind is ClientKind.LOCAL:
            return fault_in(head) or self._wrong_host(head)
        refusal = self._forbidden(head) or fault_in(head) or self._wrong_host(head)
        if refusal is not None:
            request = (head.method + b" " + head.target).decode("latin-1")
            self._note_refusal(request, refusal.detail)
        return refusal

    def note_connection_refused(self) -> None:
        """Log that this client is disconnected because there are too many untrusted clients."""
        reason = f"{MAX_UNTRUSTED} connections of machines that are not trusted are open"
        self._note_refusal("a connection", reason)

    def problem_for_unreadable(self, problem: Problem) -> Problem:
        """The problem to send for an unreadable request. An untrusted client always gets a 403."""
        if self.kind is not ClientKind.UNTRUSTED:
            return problem
        refusal = self._not_trusted()
        self._note_refusal("an unreadable request", refusal.detail)
        return refusal

    def _note_refusal(self, request: str, reason: str) -> None:
        self._access.refusals.note(self._address, request, reason)

    def _not_trusted(self) -> Problem:
        return _refused(f"{self._address} is not in rest.trusted_peers")

    def _forbidden(self, head: Head) -> Problem | None:
        if self.kind is ClientKind.UNTRUSTED:
            return self._not_trusted()
        endpoint = self._access.rest.endpoint
        path = b"/" + requested_path(head).strip(b"/")
        if head.method == b"POST" and path == endpoint.encode():
            return None
        return _refused(f"other machines may only POST to {endpoint}")

    def _wrong_host(self, head: Head) -> Problem | None:
        """The problem if Host or Origin does not name this machine (RFC 9110, 15.5.20)."""
        requested = requested_host(head)
        hosts = [] if requested is None else [("Host", requested)]
        hosts += [("Origin", origin.partition(b"://")[2]) for origin in head.origins]
        for field, host in hosts:
            if not self._access.is_own_host(host, self._own_address):
                beginning = host[:60].decode("latin-1")
                reason = f'{field} names "{beginning}", which is not this machine'
                return Problem(CODE_PREFIX + "wrong-host", "Wrong host", 421, reason)
        return None


def _refused(reason: str) -> Problem:
    return Problem(CODE_PREFIX + "peer-refused", "This client may not request this", 403, reason)
