"""A connection: sends a request, receives its reply, and may then be used for the next request.

idle ──send──> waiting ──complete reply──> idle | closed
                  └──invalid, too large, timed out, lost──> closed
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

from fractal_rm.adapters.http1.call_timer import CallTimer
from fractal_rm.adapters.http1.coding import EncodedReply, encoded_reply
from fractal_rm.adapters.http1.framing import is_delimited
from fractal_rm.adapters.http1.heads import HeadCache
from fractal_rm.adapters.http1.outbox import Outbox
from fractal_rm.adapters.http1.reply_reader import ReplyReader
from fractal_rm.adapters.http1.stale import REQUEST_TIMEOUT, StaleConnection, unread_bytes
from fractal_rm.adapters.tls import describe_tls_error, is_handshake_alert
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.call_errors import BadReply, CallTimedOut, ConnectFailed

_CLOSED_FIRST = "the connection was closed before the request was sent"


class Connection(asyncio.Protocol):
    """An HTTP/1.1 connection (RFC 9112), with one request at a time.

    It calls ``on_idle`` and ``on_closed`` of its pool.
    """

    __slots__ = (
        "_heads", "_on_closed", "_on_idle", "_outbox", "_reader", "_reply", "_reused", "_timer",
        "_tls_error", "_transport", "_unsent", "was_idle_at_sweep",
    )  # fmt: skip

    def __init__(
        self,
        on_idle: Callable[[Connection], None],
        on_closed: Callable[[Connection], None],
        outbox: Outbox,
        heads: HeadCache,
    ) -> None:
        self._on_idle = on_idle
        self._on_closed = on_closed
        self._outbox = outbox
        self._transport: asyncio.Transport | None = None
        self._heads = heads
        self._reader = ReplyReader(heads, self._end)
        self._timer = CallTimer(self._on_timeout)
        self._reply: asyncio.Future[HttpResponse] | None = None  # of the current call
        self._reused = self._unsent = False
        self._tls_error = ""  # if TLS ended the connection: the reason, to append to an error text
        self.was_idle_at_sweep = False  # whether it was idle when the pool was last swept

    @property
    def is_established(self) -> bool:
        """Whether the connection is open: it was made and is not lost."""
        return self._transport is not None

    # --- requests -----------------------------------------------------------------------------

    def send(
        self, request: bytes, loop: asyncio.AbstractEventLoop, ends_s: float, max_bytes: int
    ) -> asyncio.Future[HttpResponse]:
        """Send a request, which times out at ``ends_s`` on the loop's clock.

        The future raises StaleConnection, EncodedReply or CallFailed.
        """
        self._reader.has_received = False
        self._reader.max_bytes = max_bytes
        reply = self._reply = loop.create_future()
        timer = self._timer
        timer.ends_s = ends_s
        if ends_s < timer.fires_s:
            timer.set(loop)
        self._outbox.put(self, self._transport, request, loop)
        return reply

    def not_sent(self) -> None:
        """Called by the outbox: the connection was closed before the request was written."""
        self._unsent = True
        if self._transport is None:
            self._timer.cancel()
            if self._reused:
                self._fail(StaleConnection(maybe_read=False))
            else:
                self._fail(ConnectFailed(f"{_CLOSED_FIRST}{self._tls_error}"))
        # Otherwise, the loop will call `connection_lost`, which fails the call with the reason.

    def cancel(self) -> None:
        """Close the connection after its call was cancelled.

        If the reply came before the cancellation, do nothing: another call may already use the
        connection.
        """
        if self._reply is not None and self._reply.cancelled():
            self.close()

    def close(self) -> None:
        """Close immediately; a call that waits for its reply fails."""
        self._fail(BadReply("this node closed the connection"))

    def _on_timeout(self) -> None:
        if self._reply is not None:
            fault = "no complete answer" if self._reader.has_received else "no answer"
            self._fail(CallTimedOut(f"{fault} within the time limit", sent=not self._unsent))

    def _fail(self, error: Exception) -> None:
        reply, self._reply = self._reply, None
        if reply is not None and not reply.done():
            reply.set_exception(error)
        if self._transport is not None:
            self._transport.abort()

    # --- the connection -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        waiting = self._reply
        if waiting is None:  # no request was sent: the connection cannot be used again
            self._fail(BadReply("the server sent data without a request"))
            return
        reader = self._reader
        reply = None if reader.has_received else self._heads.reply_with_known_head(data)
        if reply is not None and len(reply.body) <= reader.max_bytes:
            self._reply = None
            if not waiting.done():
                waiting.set_result(reply)
            self._keep()
            return
        error = reader.parse(data)
        if error is not None:
            self._fail(error)

    def eof_received(self) -> None:
        """Called by the loop; `connection_lost` follows."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop. The end of the connection may also be the end of the body."""
        self._transport = None
        self._tls_error = f": {describe_tls_error(exc)}" if isinstance(exc, ssl.SSLError) else ""
        self._timer.cancel()
        self._on_closed(self)
        if self._reply is None:
            return
        reply, in_body = self._reader.reply_so_far(), self._reader.in_body
        has_received = self._reader.has_received
        if in_body and exc is None and not is_delimited(reply.head):
            self._end(reply, False, encoded_reply(reply))
        elif not has_received and self._reused:
            unsent = self._unsent or bool(self._outbox.unwritten_bytes(self))
            self._fail(StaleConnection(maybe_read=not unsent))
        elif in_body and self._reused and reply.status == REQUEST_TIMEOUT:
            self._fail(StaleConnection())  # it was closed before the server read our request
        elif self._unsent or self._outbox.unwritten_bytes(self):
            self._fail(ConnectFailed(f"{_CLOSED_FIRST}{self._tls_error}"))
        elif not has_received and isinstance(exc, ssl.SSLError) and is_handshake_alert(exc):
            self._fail(ConnectFailed(describe_tls_error(exc)))
        elif not has_received:
            self._fail(BadReply(f"the connection was closed without an answer{self._tls_error}"))
        else:
            status = f" (status {reply.status})" if in_body else ""
            self._fail(
                BadReply(f"the connection was closed before the answer was complete{status}")
            )

    # --- the reply ----------------------------------------------------------------------------

    def _end(self, reply: HttpResponse, keep_alive: bool, encoded: EncodedReply | None) -> None:
        """Give a complete reply to its call.

        Keep the connection if ``keep_alive`` and the whole request is written.
        """
        if not keep_alive and self._reused and reply.status >= 400:
            unwritten_bytes = self._outbox.unwritten_bytes(self)
            self._fail(StaleConnection(reply, unwritten_bytes + unread_bytes(self._transport)))
            return
        waiting, self._reply = self._reply, None
        if waiting is not None and not waiting.done():
            if encoded is None:
                waiting.set_result(reply)
            else:
                waiting.set_exception(encoded)
        if keep_alive:
            self._keep()
        elif self._transport is not None:
            self._transport.abort()

    def _keep(self) -> None:
        """Keep the connection for other calls, if the whole request is written."""
        transport = self._transport
        if transport is None:
            return
        if transport.get_write_buffer_size() == 0:
            self._reused = True
            self._on_idle(self)
        else:
            transport.abort()
