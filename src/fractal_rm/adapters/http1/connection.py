"""One connection: a request goes out, its reply comes in, and then perhaps the next.

idle ──ask──> asked ──whole reply──> idle | closed
                └──nonsense, too much, too late, lost──> closed
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from fractal_rm.adapters.http1.deadlines import Deadlines
from fractal_rm.adapters.http1.outbox import Outbox
from fractal_rm.domain.call import Reply
from fractal_rm.domain.errors import BadReply, CallFailed, CallTimedOut, ReplyTooLarge

MAX_BARE_BYTES = 64 * 1024  # that may come in a row without a byte of the body


class Stale(Exception):
    """A kept connection was closed without one byte of an answer: the server had let it go.

    Only connections that have answered before raise it, so asking on a new one ends.
    """


class Connection(asyncio.Protocol):
    """Speaks HTTP/1.1 (RFC 9112), one request at a time; tells its pool when it is idle or gone."""

    __slots__ = (
        "_bare_bytes", "_body", "_deadlines", "_delimited", "_got_bytes", "_headers",
        "_in_body", "_max_bytes", "_on_closed", "_on_idle", "_outbox", "_parser", "_reply",
        "_reused", "_tick", "_transport", "idle_since_s",
    )  # fmt: skip

    def __init__(
        self,
        on_idle: Callable[[Connection], None],
        on_closed: Callable[[Connection], None],
        deadlines: Deadlines,
        outbox: Outbox,
    ) -> None:
        self._on_idle = on_idle
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._reply: asyncio.Future[Reply] | None = None
        self._deadlines = deadlines
        self._outbox = outbox
        self._tick = 0
        self._reused = False
        self._max_bytes = 0
        self.idle_since_s = 0.0
        self._expect_reply()

    # --- asking -------------------------------------------------------------------------------

    def ask(
        self, request: bytes, loop: asyncio.AbstractEventLoop, ends_s: float, max_bytes: int
    ) -> asyncio.Future[Reply]:
        """Send a request; ``ends_s`` is of the loop's clock. It fails with Stale or CallFailed."""
        self._expect_reply()
        self._got_bytes = False
        self._bare_bytes = 0
        self._max_bytes = max_bytes
        reply = self._reply = loop.create_future()
        if self._transport is None:
            reply.set_exception(Stale() if self._reused else BadReply("it closed at once"))
            return reply
        self._tick = self._deadlines.set(ends_s, self, loop)
        self._outbox.put(self._transport, request, loop)
        return reply

    def close(self) -> None:
        """Let go at once; a reply that is waited for fails."""
        self._fail(BadReply("the connection was closed on our side"))

    def too_late(self) -> None:
        """Its time limit was reached."""
        what = "no whole answer" if self._got_bytes else "no answer"
        self._fail(CallTimedOut(f"{what} within the time limit", sent=True))

    def _fail(self, error: Exception) -> None:
        self._answer(error)
        if self._transport is not None:
            self._transport.abort()

    def _answer(self, answer: Reply | Exception) -> None:
        if self._tick:
            self._deadlines.lift(self._tick, self)
            self._tick = 0
        reply, self._reply = self._reply, None
        if reply is None or reply.done():
            return
        if isinstance(answer, Reply):
            reply.set_result(answer)
        else:
            reply.set_exception(answer)

    # --- the connection -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self._reply is None:  # bytes that nobody asked for: this connection cannot be trusted
            self._fail(BadReply("the server spoke unasked"))
            return
        self._got_bytes = True
        had = len(self._body)
        try:
            self._parser.feed_data(data)
        except CallFailed as error:
            self._fail(error)
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            fault = cause if isinstance(cause, CallFailed) else BadReply(f"the answer: {cause!r}")
            self._fail(fault)
        except httptools.HttpParserUpgrade:
            self._fail(BadReply("the server wants to change the protocol"))
        except httptools.HttpParserError as error:
            self._fail(BadReply(f"the answer is not HTTP/1.1: {error}"))
        else:
            if len(self._body) > had:
                self._bare_bytes = 0
            else:
                self._bound_bare(len(data))

    def _bound_bare(self, more: int) -> None:
        """Bound what ``max_bytes`` does not: heads, 1xx replies, chunk extensions, trailers.

        What came is counted, not the headers that it held: the parser tells of a line only at its
        end, and keeps all of it until then.
        """
        self._bare_bytes += more
        if self._bare_bytes > MAX_BARE_BYTES and self._reply is not None:
            self._fail(BadReply(f"more than {MAX_BARE_BYTES} bytes of headers"))

    def eof_received(self) -> None:
        """Called by the loop; the end of the connection follows."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop. The end of the connection may be the end of the body."""
        self._transport = None
        self._on_closed(self)
        if self._reply is None:
            return
        if self._in_body and not self._delimited and exc is None:
            self._answer(self._whole_reply())
        elif not self._got_bytes and self._reused:
            self._answer(Stale())
        elif not self._got_bytes:
            self._answer(BadReply("the connection was closed without an answer"))
        else:
            self._answer(BadReply("the connection was closed before the answer was whole"))

    # --- the reply, as the parser tells it ----------------------------------------------------

    def _expect_reply(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: bytes | bytearray = b""
        self._in_body = False
        self._delimited = False

    def on_message_begin(self) -> None:
        """Called by the parser."""
        if self._reply is None:
            raise BadReply("a second answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser."""
        if self._in_body:  # a trailer: it may not be taken for a header (RFC 9110, 6.5.1)
            return
        self._headers.append((name, value))
        if len(name) in (14, 17):  # only then it can be one of the two that delimit a body
            self._delimiter(name.lower(), value)

    def _delimiter(self, name: bytes, value: bytes) -> None:
        """What delimits the body (RFC 9112, 6.3)."""
        if name == b"content-length":
            self._delimited = True
            if value.isdigit():  # else the parser refuses it
                self._check_size(int(value))
        elif name == b"transfer-encoding":
            if value.strip().lower() != b"chunked":
                raise BadReply(f"transfer coding {value[:40]!r} was not asked for")
            self._delimited = True

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._in_body = True

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        if self._body:
            # A list of pieces would take 20 times of what tiny ones hold.
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += data
        else:
            self._body = data  # most come in one piece
        self._check_size(len(self._body))

    def on_message_complete(self) -> None:
        """Called by the parser, at the end of every reply, an interim one (1xx) too."""
        if self._parser.get_status_code() < 200:
            self._expect_reply()
            return
        reply = self._whole_reply()
        transport = self._transport
        if (
            transport is not None
            and self._parser.should_keep_alive()
            and transport.get_write_buffer_size() == 0
        ):
            self._reused = True
            self._answer(reply)
            self._on_idle(self)
        else:
            self._answer(reply)
            if transport is not None:
                transport.abort()

    def _whole_reply(self) -> Reply:
        status = self._parser.get_status_code()
        return Reply(status, tuple(self._headers), bytes(self._body))

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise ReplyTooLarge(f"the answer is larger than {self._max_bytes} bytes")
