"""Uvicorn's HTTP protocol with what it lacks: time limits and a bound on headers.

Without them a client that sends a byte now and then keeps a connection for ever, as does one that
does not read its answers, and one that sends headers without end fills the memory.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_LIMIT_S = 10.0
BODY_LIMIT_S = 30.0
UNSENT_LOOK_S = 10.0
MAX_HEAD_BYTES = 16 * 1024
MAX_CONNECTIONS = 2_000

_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)
_TOO_MANY = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
    b"Content-Length: 0\r\n\r\n"
)


class GuardedProtocol(HttpToolsProtocol):
    """Cuts off who is too slow or says too much before the body (RFC 9110, 15.5.9; RFC 6585, 5)."""

    _limit: asyncio.TimerHandle | None = None
    _look: asyncio.TimerHandle | None = None
    _unsent = 0
    _head_bytes = 0
    _in_head = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected: its first headers are due."""
        super().connection_made(transport)  # pyright: ignore[reportArgumentType]
        self._look_at_unsent()
        if len(self.connections) > MAX_CONNECTIONS:
            self._cut_off(_TOO_MANY)
            return
        self._due_within(HEAD_LIMIT_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._due_within(None)
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._in_head:
            if self._limit is None:
                self._due_within(HEAD_LIMIT_S)
            self._head_bytes += len(data)
        if self.transport.is_closing():
            return
        super().data_received(data)
        # What came with the end of the head is body; a head that has not ended by then is too long.
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._cut_off(_HEAD_TOO_LARGE)

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._in_head = False
        self._head_bytes = 0
        self._due_within(BODY_LIMIT_S)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Called by the parser. Until the next request, uvicorn's keep-alive limit holds."""
        self._in_head = True
        self._due_within(None)
        super().on_message_complete()

    def _due_within(self, limit_s: float | None) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        if limit_s is not None:
            self._limit = self.loop.call_later(limit_s, self._cut_off, _TOO_SLOW)

    def _cut_off(self, answer: bytes) -> None:
        self._limit = None
        if self.transport.is_closing():
            return
        running: Any = self.cycle
        if running is None or running.response_complete:
            self.transport.write(answer)
        elif not (self._in_head or self.pipeline or running.response_started):
            # It is its own body that is late, and no earlier request waits for its answer.
            running.disconnected = True  # the application can answer no more
            self.transport.write(answer)
        self.transport.close()

    def _look_at_unsent(self) -> None:
        """Abort where nothing is read of what waits to be sent: `close` would wait for ever."""
        unsent = self.transport.get_write_buffer_size()
        if unsent and unsent == self._unsent:
            self.transport.abort()
            return
        self._unsent = unsent
        self._look = self.loop.call_later(UNSENT_LOOK_S, self._look_at_unsent)
