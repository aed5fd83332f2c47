"""One connection: a request goes out, its reply comes in, and then perhaps the next.

idle ──ask──> asked ──whole reply──> idle | closed
                └──nonsense, too much, too late, lost──> closed
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import cast

import httptools

from fractal_rm.adapters.connect.tls_words import is_refusal, tls_words
from fractal_rm.adapters.http1.coding import Packed, packed_in
from fractal_rm.adapters.http1.framing import (
    all_of,
    check_announced,
    check_bare,
    check_codings,
    is_delimited,
    is_doubtful,
    is_folded,
    too_large,
    unfolded,
)
from fractal_rm.adapters.http1.heads import END_OF_HEAD, Heads
from fractal_rm.adapters.http1.outbox import Outbox
from fractal_rm.adapters.http1.stale import REQUEST_TIMEOUT, Stale, unread_bytes
from fractal_rm.domain.call import Reply
from fractal_rm.domain.call_errors import BadReply, CallFailed, CallTimedOut, ConnectFailed

MOST_UNFOLDED = 8  # heads of an answer and of the interim ones (1xx) before it
_CLOSED_FIRST = "the connection was closed before the request was sent"
_FIRST_STATUS, _FIRST_FINAL_STATUS, _NO_CONTENT = 100, 200, 204


class Connection(asyncio.Protocol):
    """Speaks HTTP/1.1 (RFC 9112), one request at a time; tells its pool when it is idle or gone."""

    __slots__ = (
        "_bare_bytes", "_body", "_chunked", "_ends_s", "_folded", "_got_bytes", "_head", "_heads",
        "_in_body", "_looks_s", "_max_bytes", "_on_closed", "_on_idle", "_outbox", "_parser",
        "_reply", "_reused", "_timer", "_transport", "_unfolded", "_unsent", "_why", "looked_at",
    )  # fmt: skip

    def __init__(
        self,
        on_idle: Callable[[Connection], None],
        on_closed: Callable[[Connection], None],
        outbox: Outbox,
        heads: Heads,
    ) -> None:
        self._on_idle = on_idle
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._parser = self._new_parser()
        self._reply: asyncio.Future[Reply] | None = None
        self._outbox = outbox
        self._heads = heads
        # Thousands of calls a second, and hardly one is late: one timer for all that go over this
        # connection. When it rings it looks whether the call of that moment is late.
        self._ends_s = 0.0
        self._looks_s = float("inf")
        self._timer: asyncio.TimerHandle | None = None
        self._reused = self._unsent = False
        self._why = ""  # the connection was lost, if TLS tells
        self._max_bytes = self._bare_bytes = self._unfolded = 0
        self._got_bytes = False
        self.looked_at = False  # while it is idle
        self._expect_reply()

    # --- asking -------------------------------------------------------------------------------

    def ask(
        self, request: bytes, loop: asyncio.AbstractEventLoop, ends_s: float, max_bytes: int
    ) -> asyncio.Future[Reply]:
        """Send a request; ``ends_s`` is of the loop's clock. It fails with Stale or CallFailed."""
        self._got_bytes = False
        self._max_bytes = max_bytes
        reply = self._reply = loop.create_future()
        self._ends_s = ends_s
        if ends_s < self._looks_s:
            self._look_at(ends_s, loop)
        self._outbox.put(self, self._transport, request, loop)
        return reply

    def not_sent(self) -> None:
        """Called by the outbox: the connection was gone before the request could go."""
        self._unsent = True
        if self._transport is None:
            self._stop_looking()
            self._fail(Stale() if self._reused else ConnectFailed(f"{_CLOSED_FIRST}{self._why}"))
        # else `connection_lost` follows, and is told why

    def give_up(self) -> None:
        """A call was cancelled: close, unless it was answered and another has the connection."""
        if self._reply is not None and self._reply.cancelled():
            self.close()

    def close(self) -> None:
        """Let go at once; a reply that is waited for fails."""
        self._fail(BadReply("the connection was closed on our side"))

    def _stop_looking(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at(self, looks_s: float, loop: asyncio.AbstractEventLoop) -> None:
        self._stop_looking()
        self._looks_s = looks_s
        self._timer = loop.call_at(looks_s, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, self._looks_s = None, float("inf")
        if self._reply is None:
            return
        if loop.time() < self._ends_s:
            self._look_at(self._ends_s, loop)
            return
        what = "no whole answer" if self._got_bytes else "no answer"
        self._fail(CallTimedOut(f"{what} within the time limit", sent=not self._unsent))

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
        if self._reply is None:  # bytes that nobody asked for: it cannot be trusted
            self._fail(BadReply("the server spoke unasked"))
            return
        whole = None if self._got_bytes else self._heads.whole_reply(data)
        if whole is not None and len(whole.body) <= self._max_bytes:
            self._end(whole)
        else:
            self._got_bytes = True
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        reply, in_head, had = self._reply, not self._in_body, len(self._body)
        if in_head:
            self._head += data
        fault = None if self._folded else self._feed(data)
        if self._folded:
            self._unfold(len(data))
        elif fault is not None:
            self._fail(fault)
        elif self._reply is reply:  # it is not whole yet
            self._check_part(0 if len(self._body) > had else len(data), in_head=in_head)

    def _feed(self, data: bytes) -> CallFailed | None:
        """Let the parser go on. Returns why that is no answer; a folded header is noted instead.

        What the callbacks raise is the context of the parser's error, so no other error may be
        handled meanwhile.
        """
        try:
            self._parser.feed_data(data)
        except CallFailed as error:
            return error
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            return cause if isinstance(cause, CallFailed) else BadReply(f"the answer: {cause!r}")
        except httptools.HttpParserUpgrade:
            return BadReply("the server wants to change the protocol")
        except httptools.HttpParserError as error:
            head = self._head.lstrip(b"\r\n").partition(END_OF_HEAD)[0]
            self._folded = self._reply is not None and not self._in_body and is_folded(head)
            return None if self._folded else BadReply(f"the answer is not HTTP/1.1: {error}")
        return None

    def _check_part(self, bare_bytes: int, *, in_head: bool) -> None:
        """Of a reply that is not whole yet: what its head announces, and what has come of it.

        Counted is what ``max_bytes`` does not bound: heads, 1xx replies, chunk extensions,
        trailers. Not the headers that it held: the parser tells of a line only at its end, and
        keeps all of it until then.
        """
        self._bare_bytes = self._bare_bytes + bare_bytes if bare_bytes else 0
        try:
            check_bare(self._bare_bytes)
            if in_head and self._in_body:
                check_announced(self._reply_so_far().head, self._max_bytes)
        except CallFailed as error:
            self._fail(error)

    def _unfold(self, new_bytes: int) -> None:
        """The parser takes no folded header (RFC 9112, 5.2): it is given the head unfolded.

        Where the head is not whole yet, wait for the rest.
        """
        head, end, rest = self._head.lstrip(b"\r\n").partition(END_OF_HEAD)
        if not end:
            self._check_part(new_bytes, in_head=True)
            return
        self._unfolded += 1
        if self._unfolded > MOST_UNFOLDED:
            self._fail(BadReply(f"more than {MOST_UNFOLDED} heads with folded headers"))
            return
        self._expect_reply()
        self._bare_bytes = 0
        self._parser = self._new_parser()
        self._parse(unfolded(head) + end + rest)

    def eof_received(self) -> None:
        """Called by the loop; the end of the connection follows."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop. The end of the connection may be the end of the body."""
        self._transport = None
        self._why = _refusal(exc)
        self._stop_looking()
        self._on_closed(self)
        if self._reply is None:
            return
        reply = self._reply_so_far()
        if self._in_body and exc is None and not is_delimited(reply.head):
            self._end(reply, kept=False, packed=packed_in(reply))
        elif not self._got_bytes and self._reused:
            self._fail(Stale())
        elif self._in_body and self._reused and reply.status == REQUEST_TIMEOUT:
            self._fail(Stale())  # it closed with our request unread, which resets
        elif self._unsent or self._outbox.held_bytes(self):
            self._fail(ConnectFailed(f"{_CLOSED_FIRST}{self._why}"))
        elif not self._got_bytes and isinstance(exc, ssl.SSLError) and is_refusal(exc):
            self._fail(ConnectFailed(tls_words(exc)))
        elif not self._got_bytes:
            self._fail(BadReply(f"the connection was closed without an answer{self._why}"))
        else:
            status = f" (status {reply.status})" if self._in_body else ""
            self._fail(BadReply(f"the connection was closed before the answer was whole{status}"))

    # --- the reply, as the parser tells it ----------------------------------------------------

    def _new_parser(self) -> httptools.HttpResponseParser:
        parser = httptools.HttpResponseParser(self)
        # Chunks override a Content-Length, and the connection is not kept: RFC 9112, 6.3.
        parser.set_dangerous_leniencies(lenient_chunked_length=True)
        return parser

    def _expect_reply(self) -> None:
        self._head: bytes = b""
        self._body: bytes | bytearray = b""
        self._in_body = self._chunked = self._folded = False

    def on_message_begin(self) -> None:
        """Called by the parser."""
        if self._reply is None:
            raise BadReply("a second answer to one request")

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._in_body = True

    def on_chunk_header(self) -> None:
        """Called by the parser."""
        self._chunked = True

    def on_body(self, data: bytes) -> None:
        """Called by the parser."""
        if self._body:
            # A list of pieces would take 20 times of what tiny ones hold.
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += data
        else:
            self._body = data  # most come in one piece
        if len(self._body) > self._max_bytes:
            raise too_large(self._max_bytes)

    def on_message_complete(self) -> None:
        """Called by the parser, at the end of every reply, an interim one (1xx) too."""
        reply = self._reply_so_far()
        check_bare(len(reply.head))
        if reply.status < _FIRST_STATUS:
            raise BadReply(f"there is no status {reply.status:03}")
        if reply.status < _FIRST_FINAL_STATUS:
            following = self._head.lstrip(b"\r\n").partition(END_OF_HEAD)[2]
            self._expect_reply()
            self._head = following
            return
        kept = self._parser.should_keep_alive()
        if self._chunked or reply.status == _NO_CONTENT:
            check_codings(all_of("transfer-encoding", reply.head))
            kept = kept and not is_doubtful(reply, self._parser.get_http_version())
        self._expect_reply()
        self._bare_bytes = self._unfolded = 0
        if kept:
            self._heads.learn(reply)
        self._end(reply, kept=kept, packed=packed_in(reply))

    def _end(self, reply: Reply, *, kept: bool = True, packed: Packed | None = None) -> None:
        """A whole reply is there; the connection is ``kept`` if the request has left it, too."""
        if not kept and self._reused and reply.status >= 400:
            held_bytes = self._outbox.held_bytes(self)
            self._fail(Stale(reply, held_bytes + unread_bytes(self._transport)))
            return
        waiting, self._reply = self._reply, None
        if waiting is not None and not waiting.done():
            if packed is None:
                waiting.set_result(reply)
            else:
                waiting.set_exception(packed)
        transport = self._transport
        if transport is None:
            return
        if kept and transport.get_write_buffer_size() == 0:
            self._reused = True
            self._on_idle(self)
        else:
            transport.abort()

    def _reply_so_far(self) -> Reply:
        """The head is taken as it came: the parser has read it, and its trailers are not in it."""
        head = self._head.lstrip(b"\r\n").partition(END_OF_HEAD)[0]
        return Reply(self._parser.get_status_code(), head, bytes(self._body))


def _refusal(error: Exception | None) -> str:
    """What a server said of TLS when it closed: in TLS 1.3 it looks at our certificate last."""
    return f": {tls_words(error)}" if isinstance(error, ssl.SSLError) else ""
