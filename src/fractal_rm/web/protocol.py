"""Uvicorn's HTTP protocol with what it lacks: limits, and a refusal for what must not be served.

Without limits a client that sends a byte now and then keeps a connection for ever, as does one that
does not read its answers, and one that sends headers without end fills the memory.

A request that is refused by its head is answered before its body is read, and so is what cannot be
read as HTTP: each in its turn, after the requests before it, and as the last of its connection.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any, cast

import httptools
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from fractal_rm.web.access import MAX_STRANGERS, Access, Standing
from fractal_rm.web.closing import ClosingTransport
from fractal_rm.web.head import (
    HEAD_TOO_LARGE,
    MAX_HEAD_BYTES,
    malformed,
    origin_form,
    read_head,
    size_of,
)
from fractal_rm.web.problems import Problem, always, in_full

HEAD_LIMIT_S = 10.0
BODY_LIMIT_S = 30.0
UNSENT_LOOK_S = 10.0
MAX_CONNECTIONS = 2_000
MAX_FOR_PEERS = 1_700  # with those that are refused and strangers, this leaves an operator room
REFUSED_AT_ONCE = 100  # connections above a bound that are told so

_TOO_SLOW = Problem(
    "about:blank",
    "The request came too slowly",
    408,
    f"its head may take {HEAD_LIMIT_S:.0f} s, and its body {BODY_LIMIT_S:.0f} s",
)
_TOO_MANY = Problem("about:blank", "There are too many connections", 503)


class Served(ServerState):
    """What all connections share: who may ask for what, and what answers, as it is now."""

    def __init__(self, access: Access, app: Any) -> None:
        super().__init__()
        self.access = access
        self.app = app
        # Nor may others take the descriptors that operators, calls and the journal need.
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most_for_peers = min(MAX_FOR_PEERS, descriptors // 4)


class GuardedProtocol(HttpToolsProtocol):
    """Reads requests within limits (RFC 9110, 15.5.9; RFC 6585, 5), and asks `Access` of each."""

    _limit: asyncio.TimerHandle | None = None
    _look: asyncio.TimerHandle | None = None
    _unsent = 0
    _begun = False  # a request, of which not all was read
    _in_head = True
    _in_trailer = False  # or before the content of a chunk
    _field_bytes = 0  # of a head or trailer that has not ended
    _refused = False  # the request that came last: nothing after it is read
    _last_answer: Problem | None = None  # to be sent when the requests before it are answered
    _keep_alive = True  # as the client wants it

    def __init__(self, config: Config, served: Served) -> None:
        super().__init__(config, served, {})
        self._served = served
        self.ended = asyncio.Event()

    # --- the connection -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected: its first headers are due."""
        real = cast("asyncio.Transport", transport)
        self._closing = ClosingTransport(real, self.loop, self._is_whole)
        super().connection_made(cast("asyncio.Transport", self._closing))
        self._follow()
        self._look_at_unsent()
        if self._has_room():
            self._due_within(HEAD_LIMIT_S)

    def reconfigured(self) -> None:
        """Judge and answer the requests whose head is still to come as is right now."""
        self._access.disconnected(self._client)
        self._follow()

    def _follow(self) -> None:
        self._access, self.app = self._served.access, self._served.app
        theirs, ours = self.client, self.server
        self._client = self._access.connected(theirs[0] if theirs else "", ours[0] if ours else "")

    def _has_room(self) -> bool:
        """Refuse the connection where there are too many; such a refusal takes room itself."""
        standing = self._client.standing
        if standing is Standing.STRANGER:
            if self._access.strangers <= MAX_STRANGERS:
                return True
            self._access.turn_away(self._client)
            self.transport.abort()
            return False
        count, most = len(self.connections), MAX_CONNECTIONS
        if standing is Standing.PEER:  # strangers have a bound of their own
            count, most = count - self._access.strangers, self._served.most_for_peers
        above = count - most
        if above > min(REFUSED_AT_ONCE, most):
            self.transport.abort()
        elif above > 0:
            self._end_with(_TOO_MANY)
        return above <= 0

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._access.disconnected(self._client)
        self._due_within(None)
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)
        self._closing.lost()
        self.ended.set()

    def shutdown(self) -> None:
        """Close when the request that is served has been answered."""
        self._keep_alive = False
        super().shutdown()

    def end(self) -> None:
        """Read no more, and close when the client has what was sent."""
        self._closing.end()

    def _is_whole(self) -> bool:
        return not self._begun

    # --- what comes ---------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes came. Of a head, the parser is given only so many as a head may have."""
        if self._closing.is_closing():
            self._closing.drop(data)
            return
        self._unset_keepalive_if_required()
        if self._in_head and self._limit is None:  # an empty line before a request, too
            self._due_within(HEAD_LIMIT_S)
        while data and not self._reads_no_more():
            if not (self._in_head or self._in_trailer):
                self._feed(data)
                return
            room = MAX_HEAD_BYTES - self._field_bytes
            piece, data = data[:room], data[room:]
            self._field_bytes += len(piece)
            self._feed(piece)
            if self._field_bytes >= MAX_HEAD_BYTES and not self._reads_no_more():
                self._end_with(HEAD_TOO_LARGE)

    def _reads_no_more(self) -> bool:
        """Whether what comes is dropped: the last answer of this connection is known."""
        return self._refused or self._last_answer is not None or self._closing.is_closing()

    def _feed(self, data: bytes) -> None:
        upgrade: int | None = None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as found:
            upgrade = found.args[0]
        except httptools.HttpParserError as error:
            cause = error.__context__
            if cause is not None and not isinstance(cause, httptools.HttpParserError):
                raise  # a fault of ours
            if not self._reads_no_more():
                self._end_with(malformed(str(error)))
        if upgrade is not None and not self._reads_no_more():
            self._read_without_upgrade(data[upgrade:])

    def _read_without_upgrade(self, rest: bytes) -> None:
        """Ignore Upgrade, as RFC 9110, 7.8 allows: read the same request again without it.

        To the parser the message has ended with its head, whatever length that has said.
        """
        lines = [b"%b %b HTTP/%b" % (
            self.parser.get_method(), self.url, self.parser.get_http_version().encode()
        )]  # fmt: skip
        lines += [b"%b: %b" % field for field in self.headers if field[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self._feed(b"\r\n".join([*lines, b"", rest]))

    def eof_received(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The client sends no more, but may read: what it has asked for whole is answered."""
        self._closing.client_ended = True
        running: Any = self.cycle
        if not self._in_head or running is None or running.response_complete:
            return False  # asyncio closes the connection
        if self._last_answer is None:
            self._keep_alive = running.keep_alive = False
        return True

    # --- what the parser has found ------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a request came, perhaps right behind the one before it."""
        super().on_message_begin()
        self._begun = True
        self._rest_is_due()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field came; the parser leaves the spaces behind its value (RFC 9110, 5.5)."""
        super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        """Serve the request, or refuse it in its turn."""
        method = self.parser.get_method()
        if self._reads_no_more() or (self.parser.should_upgrade() and method != b"CONNECT"):
            return
        head = read_head(method, self.url, self.parser.get_http_version(), self.headers)
        refusal = self._access.refusal(self._client, head)
        self._in_head, self._field_bytes = False, 0
        self._due_within(None)
        if head.version == "1.0":
            self.expect_100_continue = False  # RFC 9110, 10.1.1
        if refusal is None:
            self.url = origin_form(head)
            super().on_headers_complete()
        else:
            self._refuse(refusal)
        self.headers = []  # of trailers: nothing is taken from them
        # An answer that is sent before the whole request was read ends the connection.
        self._keep_alive, self.cycle.keep_alive = self.cycle.keep_alive, False
        self._rest_is_due()

    def on_chunk_header(self) -> None:
        """The size of a chunk came: content follows, or, after the last one, a trailer."""
        self._in_trailer, self._field_bytes = True, 0

    def on_body(self, body: bytes) -> None:
        """Content came."""
        self._in_trailer = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Until the next request, uvicorn's keep-alive limit holds."""
        if self.parser.should_upgrade():
            return
        if self.headers and size_of(self.headers) > MAX_HEAD_BYTES:
            self._end_with(HEAD_TOO_LARGE)
            return
        self._begun, self._in_head, self._in_trailer, self._field_bytes = False, True, False, 0
        self._due_within(None)
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._keep_alive
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer to the oldest request was sent."""
        was_last = not self.pipeline
        super().on_response_complete()
        self._rest_is_due()
        if was_last and self._last_answer is not None:
            self._send_last(self._last_answer)

    def _refuse(self, refusal: Problem) -> None:
        """Let uvicorn answer it as any request, in its turn."""
        self._refused = True
        self.url = b"/"  # whatever it was: it leads nowhere
        served: Any = self.app
        self.app = always(refusal)
        super().on_headers_complete()
        self.app = served

    # --- limits -------------------------------------------------------------------------------

    def _rest_is_due(self) -> None:
        """Of a request that has begun. While another waits to be served, nothing is read."""
        if self._begun and self._limit is None and not self.pipeline:
            self._due_within(HEAD_LIMIT_S if self._in_head else BODY_LIMIT_S)

    def _due_within(self, limit_s: float | None) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        if limit_s is not None:
            self._limit = self.loop.call_later(limit_s, self._end_with, _TOO_SLOW)

    def _end_with(self, answer: Problem) -> None:
        """Read no further; ``answer`` is the last one, in its turn."""
        self._due_within(None)
        if self._closing.is_closing():
            return
        if self._in_head:
            answer = self._access.answer_to_unread(self._client, answer)
        running: Any = self.cycle
        if running is None or running.response_complete:
            self._send_last(answer)
        elif self._in_head or self.pipeline:
            if not self._in_head:
                self.pipeline.popleft()  # the one whose body fails: it is not served
            self._last_answer = answer
            self.flow.pause_reading()
        else:
            # It is its own body that fails. The application can answer no more.
            running.disconnected = True
            running.message_event.set()
            self._send_last(None if running.response_started else answer)

    def _send_last(self, answer: Problem | None) -> None:
        if answer is not None and not self._closing.is_closing():
            self.transport.write(in_full(answer))
        self._closing.read_on()

    def _look_at_unsent(self) -> None:
        """Abort where nothing is read of what waits to be sent: `close` would wait for ever."""
        unsent = self.transport.get_write_buffer_size()
        if unsent and unsent == self._unsent:
            self.transport.abort()
            return
        self._unsent = unsent
        self._look = self.loop.call_later(UNSENT_LOOK_S, self._look_at_unsent)
