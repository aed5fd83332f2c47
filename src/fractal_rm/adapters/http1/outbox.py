"""Writes all requests of one turn of the event loop together, at its end.

If requests are written one by one, the server process sleeps after each request, and this process
spends time on waking it up. If requests are written together, a flow takes 10 % less CPU time of
this process.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Sender(Protocol):
    """A connection on which requests are sent."""

    def not_sent(self) -> None:
        """Called if the transport was closed before the request was written."""
        ...


class Outbox:
    """Collects the requests of a turn of the event loop, and writes them at the end of the turn."""

    def __init__(self) -> None:
        self._requests: list[tuple[Sender, asyncio.Transport | None, bytes]] = []

    def put(
        self, sender: Sender, transport: asyncio.Transport | None, request: bytes,
        loop: asyncio.AbstractEventLoop,
    ) -> None:  # fmt: skip
        """Write a request at the end of this turn of the event loop."""
        if not self._requests:
            loop.call_soon(self._send)
        self._requests.append((sender, transport, request))

    def unwritten_bytes(self, sender: Sender) -> int:
        """How many bytes of a connection are waiting to be written."""
        return sum(len(request) for by, _, request in self._requests if by is sender)

    def _send(self) -> None:
        requests, self._requests = self._requests, []
        for sender, transport, request in requests:
            if transport is None or transport.is_closing():
                sender.not_sent()
            else:
                transport.write(request)
