"""Limits for the connections of clients."""

from __future__ import annotations

import msgspec

from fractal_rm.web.problems import Problem


class ConnectionLimits(msgspec.Struct, frozen=True):
    """Limits for connections; times are in seconds, and sizes in bytes.

    A client may take ``head_s`` to send the head of a request, and ``body_s`` to send its body.
    ``unread_s`` is the time between two checks whether a client reads its responses. After a
    refusal, data is read for at most ``linger_s`` and up to ``linger_bytes``; see
    `ClosingTransport`. The refusals of a machine that sends too many refused requests are sent
    after ``late_s``.
    """

    head_s: float = 10.0
    body_s: float = 30.0
    unread_s: float = 10.0
    linger_s: float = 30.0
    linger_bytes: int = 64 * 1024 * 1024
    max_connections: int = 2_000
    # The connections of peers, refused connections and untrusted connections are together fewer
    # than ``max_connections``, so that there is room for local clients.
    max_peer_connections: int = 1_700
    # How many connections above a limit may exist, each of which gets a 503. Further connections
    # are aborted.
    max_refused_at_once: int = 100
    late_s: float = 1.0
    max_late: int = (
        64  # how many refusals may wait; for each further one, its connection is aborted
    )

    @property
    def too_slow(self) -> Problem:
        """The problem for a request that comes too slowly."""
        detail = f"its head may take {self.head_s:.0f} s, and its body {self.body_s:.0f} s"
        return Problem("about:blank", "The request came too slowly", 408, detail)


DEFAULT_LIMITS = ConnectionLimits()
