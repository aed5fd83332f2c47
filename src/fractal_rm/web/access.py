"""Access control: who sends a request, and whether the request is allowed (`domain.access`).

A request with a bearer token has the scopes of the token. Without a token, programs on this machine
may trigger and read, and a node with a certificate may trigger. Machines in ``rest.trusted_peers``
may only POST to ``rest.endpoint``, and GET it, up to ``rest.peer_rate``. They are known by their
address only, because the original Runtime Manager hands off runs with this POST, and sends no token
or certificate. Requests of all other machines are refused. ``Host`` and ``Origin`` of each request
must name this machine, so that a web page cannot start runs (`web.own_hosts`).

At the pages, and only there, a cookie counts like the token with which somebody has signed in
(`domain.sessions`). A token in the request counts more than a cookie, and a cookie more than the
address.

A request that a proxy has forwarded never has the rights of a program on this machine, or of the
proxy. If the proxy is in ``rest.trusted_proxies``, the request has the rights of the client's
address, which the proxy adds (`domain.forwarded`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.config.model import Rest
from fractal_rm.domain.access import Identity
from fractal_rm.domain.address import Address, is_within, read_address
from fractal_rm.domain.forwarded import forwarded_client
from fractal_rm.domain.handoff.messages import CODE_PREFIX
from fractal_rm.domain.rate_limit import RateLimit, machine_of
from fractal_rm.engine.ports import Authenticator, Sessions
from fractal_rm.web.client import Client, ClientKind, Sender
from fractal_rm.web.cookies import cookie_value, session_cookie
from fractal_rm.web.head import Head
from fractal_rm.web.own_hosts import OwnHosts
from fractal_rm.web.peer_refusals import PeerRefusals
from fractal_rm.web.problems import Problem
from fractal_rm.web.untrusted import UntrustedConnections

PEER_BURST_S = 10.0  # a peer that was silent may send the requests of this time at once
# How many refusals of a machine are sent at once, and how many per second later. The others are
# sent late, so a flood of wrong tokens gets fewer answers.
REFUSALS_AT_ONCE, REFUSALS_PER_S = 50, 10
# How many requests for pages a machine may send before somebody has signed in there: at once, and
# per second later. The page to sign in needs five.
VISITS_AT_ONCE, VISITS_PER_S = 200, 20


class Access:
    """Decides which connections and requests are allowed.

    ``names`` returns the names of this node in nodes.conf; see `Config.own_names`. ``node_ids``
    returns the ids of all nodes in nodes.conf by their names. ``now_s`` reads a monotonic clock.
    """

    def __init__(
        self,
        rest: Rest,
        names: Callable[[], Collection[str]],
        refusals: PeerRefusals,
        authenticator: Authenticator,
        node_ids: Callable[[], Mapping[str, str]],
        now_s: Callable[[], float] = SystemClock.monotonic_s,
        sessions: Sessions | None = None,
    ) -> None:
        self.rest = rest
        self.endpoint = rest.endpoint.encode()
        self.hosts = OwnHosts(rest, names, self._has_remote_clients)
        self.authenticator = authenticator
        self.refusals = refusals
        self._sessions = sessions
        self._node_ids = node_ids
        self._cached_node_ids: Mapping[str, str] | None = None
        self._now_s = now_s
        self._peer_limit = RateLimit(rest.peer_rate, rest.peer_rate * PEER_BURST_S)
        self._refusal_limit = RateLimit(REFUSALS_PER_S, REFUSALS_AT_ONCE)
        self._visit_limit = RateLimit(VISITS_PER_S, VISITS_AT_ONCE)
        self._untrusted = UntrustedConnections()

    @property
    def untrusted_connections(self) -> int:
        """The number of open connections of untrusted clients."""
        return self._untrusted.count

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
        kind = self._kind_of(parsed)
        own = read_address(own_address)
        client = Client(self, parsed, own, kind, certificate_names, abort)
        if kind is ClientKind.UNTRUSTED:
            self._untrusted.add(client)
        return client

    def _kind_of(self, address: Address | None) -> ClientKind:
        if address is None:
            return ClientKind.UNTRUSTED
        if address.is_loopback:
            return ClientKind.LOCAL
        if is_within(address, self.rest.trusted_proxies):
            return ClientKind.PROXY
        if is_within(address, self.rest.trusted_peers):
            return ClientKind.PEER
        return ClientKind.UNTRUSTED

    def sender_behind(self, head: Head, proxy: Sender) -> Sender:
        """The sender of a request that ``proxy`` has forwarded.

        If the proxy is not trusted, nothing is known about the sender.
        """
        address = read_address(proxy.name)
        is_trusted = address is not None and is_within(address, self.rest.trusted_proxies)
        if not is_trusted:
            name = f"a client behind the proxy {proxy.name}"
            return Sender(ClientKind.UNTRUSTED, name, proxy.machine, is_forwarded=True)
        client = forwarded_client(
            head.forwarded,
            head.forwarded_for,
            lambda each: is_within(each, self.rest.trusted_proxies),
        )
        is_peer = self._kind_of(client) is ClientKind.PEER  # and not loopback, and not a proxy
        kind = ClientKind.PEER if is_peer else ClientKind.UNTRUSTED
        name = f"{client or 'an unknown client'} behind the proxy {proxy.name}"
        return Sender(kind, name, machine_of(client), is_forwarded=True)

    def exceeds_peer_rate(self, sender: Sender) -> bool:
        """Count a request of a trusted peer. Returns whether it is above ``rest.peer_rate``."""
        return not self._peer_limit.take(sender.name, self._now_s())

    @property
    def has_pages(self) -> bool:
        """Whether there are pages, to which people can sign in."""
        return self._sessions is not None

    def exceeds_visit_rate(self, sender: Sender) -> Problem | None:
        """Count a request for a page of somebody who has not signed in.

        Returns the problem if the machine has sent too many of them.
        """
        if self._visit_limit.take(sender.machine, self._now_s()):
            return None
        why = f"{sender.name} may send {VISITS_PER_S} requests per second before signing in"
        return Problem(CODE_PREFIX + "rate-limited", "Too many requests", 429, why)

    def must_slow_down(self, sender: Sender) -> bool:
        """Count a refused request. Returns whether its machine has sent too many of them.

        Programs on this machine have no limit.
        """
        if sender.kind is ClientKind.LOCAL:
            return False
        return not self._refusal_limit.take(sender.machine, self._now_s())

    def limit_untrusted(self) -> None:
        """If too many untrusted clients are connected, close one connection."""
        client = self._untrusted.excess()
        if client is not None:
            self.forget_untrusted(client)
            client.close_for_others()

    def forget_untrusted(self, client: Client) -> None:
        """Count a client no longer as untrusted: it is disconnected, or has sent a token."""
        self._untrusted.discard(client)

    def reconfigured(self) -> None:
        """Clear the cached names, because nodes.conf may have changed."""
        self.hosts.forget()
        self._cached_node_ids = None

    def node_id_of(self, certificate_names: Collection[str]) -> str | None:
        """The id of the node in nodes.conf that has one of these names, or None."""
        if self._cached_node_ids is None:
            self._cached_node_ids = self._node_ids()
        ids = self._cached_node_ids
        return next((ids[name] for name in certificate_names if name in ids), None)

    def identify_session(self, head: Head) -> Identity | None:
        """Who has signed in with the browser that sends a request."""
        if self._sessions is None or not head.cookies:
            return None
        session = cookie_value(head.cookies, session_cookie(self.rest.port))
        return self._sessions.identify(session) if session else None

    def _has_remote_clients(self) -> bool:
        """Whether any other machine may send requests."""
        mutual_tls = self.rest.tls is not None and self.rest.tls.ca is not None
        has_secrets = self.authenticator.has_tokens or self.authenticator.is_inviting
        return mutual_tls or bool(self.rest.trusted_peers) or has_secrets


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
