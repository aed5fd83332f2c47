"""Reads the Authorization header (RFC 9110, 11.6.2; RFC 6750, 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

from fractal_rm.domain.access import Scope

_SCHEME = b"bearer"


def bearer_token(headers: Sequence[bytes]) -> str | None:
    """The token of a request. None if the request does not have exactly one bearer token."""
    if len(headers) != 1:
        return None
    scheme, _, token = headers[0].partition(b" ")
    token = token.strip()
    if scheme.lower() != _SCHEME or not token or not token.isascii():
        return None
    return token.decode()


def required_scope(method: bytes) -> Scope:
    """The scope that a request needs: every POST is a trigger, and everything else only reads."""
    return Scope.TRIGGER if method == b"POST" else Scope.READ
