"""Bounds on the connections of clients."""

from __future__ import annotations

import msgspec


class ConnectionLimits(msgspec.Struct, frozen=True):
    """Times in seconds, sizes in bytes.

    ``unread_s`` is how often a connection is checked for a client that does not read its responses.
    ``linger_*`` bound how long a refused client is read from; see `ClosingTransport`.
    """

    head_s: float = 10.0
    body_s: float = 30.0
    unread_s: float = 10.0
    linger_s: float = 30.0
    linger_bytes: int = 64 * 1024 * 1024
    max_connections: int = 2_000
    # With the refused and the untrusted connections, this leaves room for local clients.
    max_peer_connections: int = 1_700
    max_refused_at_once: int = 100  # connections above a bound that get a 503; others are aborted


DEFAULT_LIMITS = ConnectionLimits()
