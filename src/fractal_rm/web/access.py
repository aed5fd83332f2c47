"""Access control: who sends a request, and whether the request is allowed (`domain.access`).

A request with a bearer token has the scopes of the token. Without a token, programs on this machine
may trigger and read, and a node with a certificate may trigger. Machines in ``rest.trusted_peers``
may only POST to ``rest.endpoint``, and GET it. They are known by their address only, because the
original Runtime Manager hands off runs with this POST, and sends no token or certificate. Requests
of all other machines are refused. ``Host`` and ``Origin`` of each request must name this machine,
so that a web page cannot start runs (DNS rebinding, CSRF).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import Enum

from fractal_rm.config.model import Rest
from fractal_rm.domain.access import THIS_MACHINE, TRUSTED_PEER, Identity, Scope, scope_texts
from fractal_rm.domain.address import (
    Address,
    host_of_authority,
    is_loopback,
    is_within,
    read_address,
)
from fractal_rm.domain.handoff.messages import CODE_PREFIX
from fractal_rm.domain.pairing import INVITED, PAIR_PATH
from fractal_rm.engine.ports import Authenticator
from fractal_rm.web.authorization import bearer_token, is_open_to_peers, sufficient_scopes
from fractal_rm.web.head import Head, fault_in, requested_host, requested_path
from fractal_rm.web.own_address import is_own_address
from fractal_rm.web.peer_refusals import PeerRefusals
from fractal_rm.web.problems import Problem

# How many connections of untrusted machines may be open. Their requests get a refusal. For each
# further connection, the oldest is aborted.
MAX_UNTRUSTED = 64
MAX_CACHED_HOSTS = 256  # how many accepted values of Host and Origin are cached
IDENTITY = "identity"  # the key of the client's `Identity` in the state of an ASGI request
_ACCESS_STATUSES = (401, 403)


class ClientKind(Enum):
    """The kind of a client, by its address."""

    LOCAL = "local"
    PEER = "peer"
    KNOWN = "known"  # of another machine, and has sent a valid token on this connection
    UNTRUSTED = "untrusted"


class Access:
    """Decides which connections and requests are allowed.

    ``names`` returns the names of this node in nodes.conf; see `Config.own_names`. ``node_ids``
    returns the ids of all nodes in nodes.conf by their names.
    """

    def __init__(
        self,
        rest: Rest,
        names: Callable[[], Collection[str]],
        refusals: PeerRefusals,
        authenticator: Authenticator,
        node_ids: Callable[[], Mapping[str, str]],
    ) -> None:
        self.rest = rest
        self.endpoint = rest.endpoint.encode()
        self._node_ids = node_ids
        self._cached_node_ids: Mapping[str, str] | None = None
        self.authenticator = authenticator
        self.refusals = refusals
        self._names = names
        self._accepted_hosts: set[bytes] = set()
        self._untrusted: dict[Client, None] = {}  # clients of open connections, the oldest first

    @property
    def untrusted_connections(self) -> int:
        """The number of open connections of untrusted clients."""
        return len(self._untrusted)

    def connected(
        self,
        address: str,
        own_address: str,
        certificate_names: Collection[str] = (),
        abort: Callable[[], None] = lambda: None,
    ) -> Client:
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
        own = read_address(own_address)
        client = Client(self, str(parsed or address), own, kind, certificate_names, abort)
        if kind is ClientKind.UNTRUSTED:
            self._untrusted[client] = None
        return client

    def limit_untrusted(self) -> None:
        """If too many untrusted clients are connected, close the oldest connection.

        So slow connections cannot keep out a client that is about to send its token.
        """
        if len(self._untrusted) > MAX_UNTRUSTED:
            oldest = next(iter(self._untrusted))
            self.forget_untrusted(oldest)
            oldest.close_for_others()

    def forget_untrusted(self, client: Client) -> None:
        """Count a client no longer as untrusted: it is disconnected, or has sent a token."""
        self._untrusted.pop(client, None)

    def reconfigured(self) -> None:
        """Clear the cached names, because nodes.conf may have changed."""
        self._accepted_hosts.clear()
        self._cached_node_ids = None

    def node_id_of(self, certificate_names: Collection[str]) -> str | None:
        """The id of the node in nodes.conf that has one of these names, or None."""
        if self._cached_node_ids is None:
            self._cached_node_ids = self._node_ids()
        ids = self._cached_node_ids
        return next((ids[name] for name in certificate_names if name in ids), None)

    def is_own_host(self, host: bytes, own_address: Address | None) -> bool:
        """Whether ``host[:port]`` names this machine.

        Names are cached. Addresses are not, because an address may move to another machine (VRRP).
        """
        if host in self._accepted_hosts:
            return True
        name = host_of_authority(host)
        if name is None:
            return False
        is_local_name = name == "localhost" or is_loopback(name)
        has_remote_clients = not is_local_name and self._has_remote_clients
        if is_local_name or (has_remote_clients and name in self._names()):
            if len(self._accepted_hosts) < MAX_CACHED_HOSTS:
                self._accepted_hosts.add(host)
            return True
        address = read_address(name) if has_remote_clients else None
        return address is not None and (address == own_address or is_own_address(address))

    @property
    def _has_remote_clients(self) -> bool:
        """Whether any other machine may send requests."""
        mutual_tls = self.rest.tls is not None and self.rest.tls.ca is not None
        has_secrets = self.authenticator.has_tokens or self.authenticator.is_inviting
        return mutual_tls or bool(self.rest.trusted_peers) or has_secrets


class Client:
    """The client of a connection, and what it may request."""

    __slots__ = ("_abort", "_access", "_address", "_certificate_names", "_own_address", "kind")

    def __init__(
        self,
        access: Access,
        address: str,
        own_address: Address | None,
        kind: ClientKind,
        certificate_names: Collection[str],
        abort: Callable[[], None],
    ) -> None:
        self._abort = abort
        self._certificate_names = certificate_names
        self._access = access
        self._address = address
        self._own_address = own_address
        self.kind = kind

    def disconnected(self) -> None:
        """Note that the connection is closed."""
        self._access.forget_untrusted(self)

    def check(self, head: Head) -> Identity | Problem:
        """The client of a request, or the problem to send if the request must not be served.

        Logs refusals of other machines, and refused tokens. A machine that may not use this
        interface is not told what else is wrong with its request.
        """
        is_local = self.kind is ClientKind.LOCAL
        found = self._authorized(head)
        if is_local or not isinstance(found, Problem):
            found = fault_in(head) or self._wrong_host(head) or found
        if isinstance(found, Problem) and (found.status in _ACCESS_STATUSES or not is_local):
            request = (head.method + b" " + head.target).decode("latin-1")
            self._note_refusal(request, found.detail)
        return found

    def close_for_others(self) -> None:
        """Close the connection, as too many untrusted clients are connected, and log it."""
        reason = f"more than {MAX_UNTRUSTED} connections of machines that are not trusted are open"
        self._note_refusal("a connection", reason)
        self._abort()

    def problem_for_unreadable(self, problem: Problem) -> Problem:
        """The problem to send for an unreadable request.

        An untrusted client is told only that it is not trusted.
        """
        if self.kind is not ClientKind.UNTRUSTED:
            return problem
        refusal = self._not_trusted()
        self._note_refusal("an unreadable request", refusal.detail)
        return refusal

    def _note_refusal(self, request: str, reason: str) -> None:
        self._access.refusals.note(self._address, request, reason)

    def _not_trusted(self) -> Problem:
        if self._access.authenticator.has_tokens:
            return _unauthenticated("send a token: Authorization: Bearer TOKEN")
        return _refused(f"{self._address} is not in rest.trusted_peers")

    def _authorized(self, head: Head) -> Identity | Problem:
        """The client of a request, or a problem if it is not known or lacks the scope."""
        identity = self._identify(head)
        if isinstance(identity, Problem):
            return identity
        path, is_endpoint = head.target, True
        if path != self._access.endpoint:  # a fast path: most requests are triggers
            path = requested_path(head)
            is_endpoint = b"/" + path.strip(b"/") == self._access.endpoint
        if identity is INVITED:
            if head.method == b"POST" and b"/" + path.strip(b"/") == PAIR_PATH.encode():
                return identity
            return _refused(f"an invitation allows only POST {PAIR_PATH}")
        if identity is TRUSTED_PEER and not (is_endpoint and is_open_to_peers(head.method)):
            endpoint = self._access.rest.endpoint
            return _refused(
                f"without a token, other machines may only POST to {endpoint}, or GET it"
            )
        sufficient = sufficient_scopes(head.method, path, is_endpoint=is_endpoint)
        for scope in sufficient:
            if identity.may(scope):
                return identity
        scopes = ", ".join(scope_texts(identity.scopes))
        needed = " or ".join(scope_texts(sufficient))
        why = f"this request needs the scope {needed}; {identity.name} has {scopes}"
        if identity is THIS_MACHINE:
            why += "; send a token with that scope: Authorization: Bearer TOKEN"
        return Problem(CODE_PREFIX + "missing-scope", "This token may not request this", 403, why)

    def _identify(self, head: Head) -> Identity | Problem:
        token = bearer_token(head.authorizations)
        if token is not None:
            found = self._access.authenticator.identify(token)
            if isinstance(found, str):
                return _unauthenticated(found)
            self._leave_untrusted()
            return found
        if self.kind is ClientKind.LOCAL:
            return THIS_MACHINE
        if self._certificate_names:
            return self._node_of_certificate()
        return TRUSTED_PEER if self.kind is ClientKind.PEER else self._not_trusted()

    def _node_of_certificate(self) -> Identity | Problem:
        """The node in nodes.conf that the client's certificate names. The certificate is valid."""
        node_id = self._access.node_id_of(self._certificate_names)
        if node_id is None:
            names = ", ".join(self._certificate_names)
            return _refused(f"its certificate is for {names:.200}, which is not in nodes.conf")
        self._leave_untrusted()
        return Identity(f"node {node_id}", frozenset({Scope.TRIGGER}))

    def _leave_untrusted(self) -> None:
        """Count the connection no longer as untrusted, after a valid token."""
        if self.kind is ClientKind.UNTRUSTED:
            self.kind = ClientKind.KNOWN
            self._access.forget_untrusted(self)

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


def _unauthenticated(reason: str) -> Problem:
    return Problem(CODE_PREFIX + "unauthenticated", "This client is not known", 401, reason)


class NoTokens:
    """Port `Authenticator`: a node without tokens."""

    has_tokens = False
    is_inviting = False

    def warnings(self) -> list[str]:
        """Nothing can expire."""
        return []

    def identify(self, token: str) -> str:  # noqa: ARG002 - see the port
        """Refuse every token."""
        return "this node has no tokens"
