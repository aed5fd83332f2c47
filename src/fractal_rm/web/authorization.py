"""Reads the Authorization header (RFC 9110, 11.6.2; RFC 6750, 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

from fractal_rm.domain.access import Scope

_SCHEME = b"bearer"
_GET = (b"GET", b"HEAD")
_NODE, _RUNS, _RESOLVE = [b"v1", b"node"], [b"v1", b"runs"], [b"resolve"]


def bearer_token(headers: Sequence[bytes]) -> str | None:
    """The token of a request. None if the request does not have exactly one bearer token."""
    if len(headers) != 1:
        return None
    scheme, _, token = headers[0].partition(b" ")
    token = token.strip()
    if scheme.lower() != _SCHEME or not token or not token.isascii():
        return None
    return token.decode()


def sufficient_scopes(method: bytes, path: bytes, endpoint: bytes) -> tuple[Scope, ...]:
    """The scopes that allow a request. A client needs one of them.

    ``path`` is percent-decoded, and ``endpoint`` is `Rest.endpoint`. Requests of operators need
    OPERATE. Every other POST is a trigger, and everything else only reads. The description of a
    node is for its peers, too, which may only trigger.
    """
    is_get = method in _GET
    parts = [part for part in path.split(b"/") if part]
    if not is_get and (parts[:2] == _NODE or (parts[:2] == _RUNS and parts[-1:] == _RESOLVE)):
        return (Scope.OPERATE,)
    if is_get and (parts == _NODE or is_endpoint(path, endpoint)):
        return (Scope.READ, Scope.TRIGGER)
    return (Scope.TRIGGER,) if method == b"POST" else (Scope.READ,)


def is_open_to_peers(method: bytes, path: bytes, endpoint: bytes) -> bool:
    """Whether a peer in ``rest.trusted_peers`` may send a request: to offer a run, or to ask."""
    return (method == b"POST" or method in _GET) and is_endpoint(path, endpoint)


def is_endpoint(path: bytes, endpoint: bytes) -> bool:
    """Whether a path is that of the endpoint for triggers."""
    return b"/" + path.strip(b"/") == endpoint
