"""Reads the Authorization header (RFC 9110, 11.6.2; RFC 6750, 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

from fractal_rm.domain.access import Scope

_SCHEME = b"bearer"
_GET = (b"GET", b"HEAD")
_OPERATE, _TRIGGER, _READ = (Scope.OPERATE,), (Scope.TRIGGER,), (Scope.READ,)
_TRIGGER_OR_READ = _TRIGGER + _READ
_ADMIN = (Scope.ADMIN,)
_PAIR = [b"v1", b"pair"]
_CHANGES = (b"POST", b"PUT", b"PATCH", b"DELETE")
_NODE, _FLOWS, _LOG_LEVEL = [b"v1", b"node"], [b"v1", b"flows"], [b"v1", b"log-level"]


def bearer_token(headers: Sequence[bytes]) -> str | None:
    """The token of a request. None if the request does not have exactly one bearer token."""
    if len(headers) != 1:
        return None
    scheme, _, token = headers[0].partition(b" ")
    token = token.strip()
    if scheme.lower() != _SCHEME or not token or not token.isascii():
        return None
    return token.decode()


def sufficient_scopes(method: bytes, path: bytes, *, is_endpoint: bool) -> tuple[Scope, ...]:
    """The scopes that allow a request. A client needs one of them.

    ``path`` is percent-decoded. ``is_endpoint``: it is that of `Rest.endpoint`. A POST to the runs
    of a flow is a trigger. Every other change below ``/v1`` is a request of an operator, also at a
    path that does not exist. The description of a node is for its peers, too, which may only
    trigger.
    """
    is_get = method in _GET
    if is_endpoint:
        return _TRIGGER_OR_READ if is_get else _TRIGGER if method == b"POST" else _READ
    parts = [part for part in path.split(b"/") if part]
    if method not in _CHANGES:
        return _TRIGGER_OR_READ if is_get and parts == _NODE else _READ
    if method == b"POST" and parts[:2] == _FLOWS and parts[3:] == [b"runs"]:
        return _TRIGGER
    # There is no such path, or it has no such method; or it is that of joining, where only the
    # secret of an invitation is accepted, so that other clients are told that there is no path.
    if parts[:1] != [b"v1"] or parts == _PAIR:
        return _TRIGGER if method == b"POST" else _READ
    return _ADMIN if parts == _LOG_LEVEL else _OPERATE


def is_open_to_peers(method: bytes) -> bool:
    """Whether a peer in ``rest.trusted_peers`` may use this method at `Rest.endpoint`.

    A peer may offer a run, and ask what this node is.
    """
    return method == b"POST" or method in _GET
