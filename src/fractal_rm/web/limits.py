"""Limits for the connections of clients."""

from __future__ import annotations

import msgspec


class ConnectionLimits(msgspec.Struct, frozen=True):
    """Limits for connections; times are in seconds, and sizes in bytes.

    ``head_s`` and ``body_s``: how long a client may take to send the head and the body of a
    request. ``unread_s``: the time between two checks whether a client reads its responses.
    ``linger_s`` and ``linger_bytes``: how long, and how much, to read from a refused client; see
    `ClosingTransport`.
    """

    head_s: float = 10.0
    body_s: float = 30.0
    unread_s: float = 10.0
    linger_s: float = 30.0
    linger_bytes: int = 64 * 1024 * 1024
    max_connections: int = 2_000
    # Together with the refused and the untrusted connections, these are fewer than
    # ``max_connections``, so that there is room for local clients.
    max_peer_connections: int = 1_700
    # How many connections above a limit get a 503 at the same time. Further ones are aborted.
    max_refused_at_once: int = 100


DEFAULT_LIMITS = ConnectionLimits()
