"""The client of a connection: who sends each request, and whether it is allowed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Enum
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from fractal_rm.domain.access import (
    NOBODY,
    THIS_MACHINE,
    TRUSTED_PEER,
    Identity,
    Scope,
    scope_texts,
)
from fractal_rm.domain.address import Address
from fractal_rm.domain.handoff.messages import CODE_PREFIX
from fractal_rm.domain.pairing import INVITED, PAIR_PATH
from fractal_rm.domain.rate_limit import machine_of
from fractal_rm.web.authorization import bearer_token, is_open_to_peers, sufficient_scopes
from fractal_rm.web.head import Head, fault_in, requested_path
from fractal_rm.web.page_paths import is_endpoint, is_nowhere, is_page
from fractal_rm.web.problems import Problem
from fractal_rm.web.request_state import IDENTITY, TOKEN_REFUSED
from fractal_rm.web.untrusted import MAX_UNTRUSTED

if TYPE_CHECKING:
    from fractal_rm.web.access import Access

_ACCESS_STATUSES = (401, 403)
_READ = (Scope.READ,)


class ClientKind(Enum):
    """The kind of a client, by its address."""

    LOCAL = "local"
    PEER = "peer"
    PROXY = "proxy"  # a trusted proxy on another machine; its own address gives no rights
    KNOWN = "known"  # of another machine, and has sent a valid token on this connection
    UNTRUSTED = "untrusted"


class Sender(msgspec.Struct, frozen=True):
    """Who sends a request, by its address. ``name`` is shown in logs and problems.

    ``machine`` is the name of its machine in a `RateLimit`. ``is_forwarded``: a proxy has forwarded
    the request, so the address of the connection and its certificate are those of the proxy.
    """

    kind: ClientKind
    name: str
    machine: str
    is_forwarded: bool = False


class Client:
    """The client of a connection, and what it may request."""

    __slots__ = (
        "_abort",
        "_access",
        "_certificate_names",
        "_name",
        "_own_address",
        "answers_late",
        "kind",
        "machine",
        "visitor",
    )

    def __init__(
        self,
        access: Access,
        address: Address | None,
        own_address: Address | None,
        kind: ClientKind,
        certificate_names: Collection[str],
        abort: Callable[[], None],
    ) -> None:
        self._abort = abort
        self._certificate_names = certificate_names
        self._access = access
        self._name = "an unknown address" if address is None else str(address)
        self._own_address = own_address
        self.machine = machine_of(address)
        self.kind = kind
        self.answers_late = False  # the last refusal must be sent late: its machine gets too many
        self.visitor: Sender | None = None  # who has sent the last request, if it is for a page

    def disconnected(self) -> None:
        """Note that the connection is closed."""
        self._access.forget_untrusted(self)

    def check(self, head: Head) -> Identity | Problem:
        """The client of a request, or the problem to send if the request must not be served.

        Logs refusals of other machines, and refused tokens. A machine that may not use this
        interface is not told what else is wrong with its request.
        """
        sender = self._sender_of(head)
        is_local = sender.kind is ClientKind.LOCAL
        self.visitor = None
        found = self._authorized(head, sender)
        if is_local or not isinstance(found, Problem):
            found = self._fault_in(head, sender, found) or found
        if isinstance(found, Problem) and (found.status in _ACCESS_STATUSES or not is_local):
            request = (head.method + b" " + head.target).decode("latin-1")
            self._note_refusal(sender.name, request, found)
            # A hand-off above the rate of its sender is refused at once, so that its run can start.
            is_hand_off = found.status == HTTPStatus.TOO_MANY_REQUESTS
            self.answers_late = not is_hand_off and self._access.must_slow_down(sender)
        return found

    def _fault_in(self, head: Head, sender: Sender, found: Identity | Problem) -> Problem | None:
        fault = fault_in(head)
        if fault is not None:
            return self._not_trusted(sender) if found is NOBODY else fault
        is_forwarded = sender.is_forwarded
        return self._access.hosts.wrong_host(head, self._own_address, is_forwarded=is_forwarded)

    def describe(self, identity: Identity, state: dict[str, Any]) -> None:
        """Put into the state of a request what `web.request_state` says."""
        state[IDENTITY] = identity
        if self.visitor is not None:
            state[TOKEN_REFUSED] = partial(self.token_refused, self.visitor)

    def token_refused(self, sender: Sender, reason: str) -> None:
        """Count and log that ``sender`` wanted to sign in with a token that is not valid."""
        refusal = _unauthenticated(reason)
        self._note_refusal(sender.name, "POST /sign-in", refusal)

    def close_for_others(self) -> None:
        """Close the connection, as too many untrusted clients are connected, and log it."""
        reason = f"more than {MAX_UNTRUSTED} connections of machines that are not trusted are open"
        self._access.refusals.note(self._name, "a connection", reason, "too-many-connections")
        self._abort()

    def problem_for_unreadable(self, problem: Problem) -> Problem:
        """The problem to send for an unreadable request.

        An untrusted client is told only that it is not trusted.
        """
        if self.kind is not ClientKind.UNTRUSTED:
            return problem
        refusal = self._not_trusted(self._direct_sender())
        self._note_refusal(self._name, "an unreadable request", refusal)
        return refusal

    def _note_refusal(self, sender: str, request: str, problem: Problem) -> None:
        code = problem.type.removeprefix(CODE_PREFIX)
        code = "invalid" if code == problem.type else code
        self._access.refusals.note(sender, request, problem.detail, code)

    # --- who sends a request ------------------------------------------------------------------

    def _sender_of(self, head: Head) -> Sender:
        """Who sends a request. Programs on this machine do not use the public URL."""
        hosts, is_local = self._access.hosts, self.kind is ClientKind.LOCAL
        if head.is_forwarded or (
            is_local and hosts.public is not None and hosts.came_by_public_url(head)
        ):
            return self._access.sender_behind(head, self._direct_sender())
        return self._direct_sender()

    def _direct_sender(self) -> Sender:
        kind = ClientKind.UNTRUSTED if self.kind is ClientKind.PROXY else self.kind
        return Sender(kind, self._name, self.machine)

    def _identify(self, head: Head, sender: Sender) -> Identity | Problem:
        token = bearer_token(head.authorizations)
        if token is not None:
            found = self._access.authenticator.identify(token)
            if isinstance(found, str):
                return _unauthenticated(found)
            self._leave_untrusted()
            return found
        if sender.kind is ClientKind.LOCAL:
            return THIS_MACHINE
        if self._certificate_names and not sender.is_forwarded:
            return self._node_of_certificate()
        return TRUSTED_PEER if sender.kind is ClientKind.PEER else self._not_trusted(sender)

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

    # --- what it may request ------------------------------------------------------------------

    def _authorized(self, head: Head, sender: Sender) -> Identity | Problem:
        """The client of a request, or a problem if it is not known or lacks the scope."""
        path, at_endpoint = head.target, True
        if path != self._access.endpoint:  # a fast path: most requests are triggers
            path, endpoint = requested_path(head), self._access.rest.endpoint
            text = path.decode(errors="replace")  # as the application reads it
            is_lost = head.accepts_page and is_nowhere(head.method.decode(), text, endpoint)
            if self._access.has_pages and (is_lost or is_page(text, endpoint)):
                self.visitor = sender
                return self._visitor(head, sender)
            at_endpoint = is_endpoint(text, endpoint)
        identity = self._identify(head, sender)
        if isinstance(identity, Problem):
            return identity
        return self._refusal(head, sender, identity, path, is_endpoint=at_endpoint) or identity

    def _refusal(
        self, head: Head, sender: Sender, identity: Identity, path: bytes, *, is_endpoint: bool
    ) -> Problem | None:
        """Why a known client may not send a request, or None if it may."""
        if identity is INVITED:
            if head.method == b"POST" and b"/" + path.strip(b"/") == PAIR_PATH.encode():
                return None
            return _refused(f"an invitation allows only POST {PAIR_PATH}")
        if identity is TRUSTED_PEER:
            is_open = is_endpoint and is_open_to_peers(head.method)
            refusal = self._refusal_of_peer(sender, is_open=is_open)
            if refusal is not None:
                return refusal
        sufficient = sufficient_scopes(head.method, path, is_endpoint=is_endpoint)
        for scope in sufficient:
            if identity.may(scope):
                return None
        return _missing_scope(identity, sufficient)

    def _visitor(self, head: Head, sender: Sender) -> Identity | Problem:
        """Who looks at a page: by a token in the request, by a session, or by the address.

        Whoever may read nothing, and could sign in, is `NOBODY`: the pages ask for a token.
        """
        has_token = bearer_token(head.authorizations) is not None
        session = None if has_token else self._access.identify_session(head)
        if session is not None:
            self._leave_untrusted()
            return session
        identity = self._identify(head, sender)
        if identity is INVITED:
            return _refused(f"an invitation allows only POST {PAIR_PATH}")
        if has_token or (isinstance(identity, Identity) and identity.may(Scope.READ)):
            return identity
        if self._access.authenticator.has_tokens:
            return self._access.exceeds_visit_rate(sender) or NOBODY
        if identity is TRUSTED_PEER:
            return self._endpoint_only()
        return identity if isinstance(identity, Problem) else _missing_scope(identity, _READ)

    def _refusal_of_peer(self, sender: Sender, *, is_open: bool) -> Problem | None:
        """Why a trusted peer may not send a request. ``is_open``: the request is open to peers."""
        if not is_open:
            return self._endpoint_only()
        if self._access.exceeds_peer_rate(sender):
            rate = self._access.rest.peer_rate
            why = f"{sender.name} may send {rate} requests per second: rest.peer_rate in comm.conf"
            return Problem(CODE_PREFIX + "rate-limited", "Too many requests", 429, why)
        return None

    def _endpoint_only(self) -> Problem:
        endpoint = self._access.rest.endpoint
        return _refused(f"without a token, other machines may only POST to {endpoint}, or GET it")

    def _not_trusted(self, sender: Sender) -> Problem:
        if self._access.authenticator.has_tokens:
            return _unauthenticated("send a token: Authorization: Bearer TOKEN")
        if sender.is_forwarded:
            return _refused(
                "a proxy has forwarded this request, so it needs a token, and this node has none"
            )
        return _refused(f"{sender.name} is not in rest.trusted_peers")


def _missing_scope(identity: Identity, sufficient: tuple[Scope, ...]) -> Problem:
    scopes = ", ".join(scope_texts(identity.scopes))
    needed = " or ".join(scope_texts(sufficient))
    why = f"this request needs the scope {needed}; {identity.name} has {scopes}"
    if identity is THIS_MACHINE:
        why += "; send a token with that scope: Authorization: Bearer TOKEN"
    return Problem(CODE_PREFIX + "missing-scope", "This token may not request this", 403, why)


def _refused(reason: str) -> Problem:
    return Problem(CODE_PREFIX + "peer-refused", "This client may not request this", 403, reason)


def _unauthenticated(reason: str) -> Problem:
    return Problem(CODE_PREFIX + "unauthenticated", "This client is not known", 401, reason)
