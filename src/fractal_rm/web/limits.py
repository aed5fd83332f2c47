"""Limits for the connections of clients."""

from __future__ import annotations

import msgspec


class ConnectionLimits(msgspec.Struct, frozen=True):
    """Limits for connections; times are in seconds, and sizes in bytes.

    ``head_s`` and ``body_s``: how long a client may take to send the head and the body of a
    request. ``unread_s``: how often to check whether a client reads its responses. ``linger_s`` and
    ``linger_bytes``: how long, and how much, to read from a refused client; see `ClosingTransport`.
    """

    head_s: float = 10.0
    body_s: float = 30.0
    unread_s: float = 10.0
    linger_s: float = 30.0
    linger_bytes: int = 64 * 1024 * 1024
    max_connections: int = 2_000
    # With the refused and the untrusted connections, this leaves room for local clients.
    max_peer_connections: int = 1_700
    max_refused_at_once: int = 100  # excess connections that get a 503; others are aborted


DEFAULT_LIMITS = ConnectionLimits()
