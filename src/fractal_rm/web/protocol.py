"""Uvicorn's HTTP protocol with limits and access control.

Without limits, a client could keep its connection for ever by sending very slowly, or by not
reading its responses. A client that sends endless headers could fill the memory.

A request is refused as soon as its head was read, before its body is read. A request that cannot be
parsed gets a problem as its response. In both cases, pipelined requests that came earlier are
answered first, and the connection is closed afterwards.
"""

from __future__ import annotations

import asyncio
import resource
from typing import Any, cast

import httptools
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from fractal_rm.web.access import Access
from fractal_rm.web.certificate import names_in
from fractal_rm.web.client import ClientKind
from fractal_rm.web.closing import ClosingTransport
from fractal_rm.web.head import (
    HEAD_TOO_LARGE,
    MAX_HEAD_BYTES,
    malformed,
    origin_form,
    read_head,
    size_of,
)
from fractal_rm.web.late_refusals import LateRefusals
from fractal_rm.web.limits import DEFAULT_LIMITS, ConnectionLimits
from fractal_rm.web.problems import Problem, encode_response
from fractal_rm.web.refusal_pages import refusing_app
from fractal_rm.web.request_progress import RequestProgress
from fractal_rm.web.request_state import AT_EOF
from fractal_rm.web.unread_responses import UnreadResponseWatch

_TOO_MANY = Problem("about:blank", "There are too many connections", 503)


class SharedState(ServerState):
    """The state of all connections. A new configuration sets a new ``access`` and ``app``."""

    def __init__(self, access: Access, app: Any, limits: ConnectionLimits = DEFAULT_LIMITS) -> None:
        super().__init__()
        self.access = access
        self.app = app
        self.limits = limits
        self.late_refusals = LateRefusals(limits)
        # Peers get at most a quarter of the file descriptors. Local clients, calls and the journal
        # need some, too.
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.max_peer_connections = min(limits.max_peer_connections, descriptors // 4)


class GuardedProtocol(HttpToolsProtocol):
    """Reads requests within limits (RFC 9110, 15.5.9; RFC 6585, 5). `Access` checks each one."""

    _timer: asyncio.TimerHandle | None = None  # the time limit of the current head or body
    _last_problem: Problem | None = None  # sent after the responses to all earlier requests

    def __init__(self, config: Config, shared: SharedState) -> None:
        super().__init__(config, shared, {})
        self._shared = shared
        self._progress = RequestProgress()
        self.ended = asyncio.Event()

    @property
    def _limits(self) -> ConnectionLimits:
        return self._shared.limits

    # --- the connection -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set up the connection. Refuse it if there are too many connections."""
        real = cast("asyncio.Transport", transport)
        self._closing_transport = ClosingTransport(
            real, self.loop, lambda: not self._progress.begun, self._limits
        )
        super().connection_made(cast("asyncio.Transport", self._closing_transport))
        self._apply_configuration()
        self._unread_watch = UnreadResponseWatch(real, self.loop, self._limits.unread_s)
        if self._admit_connection():
            self._set_time_limit(self._limits.head_s)

    def reconfigured(self) -> None:
        """Use the new configuration for all requests, except one whose head was read before."""
        self._client.disconnected()
        self._apply_configuration()

    def _apply_configuration(self) -> None:
        self.app = self._shared.app
        client, server = self.client, self.server
        self._client = self._shared.access.connected(
            client[0] if client else "",
            server[0] if server else "",
            names_in(self.transport.get_extra_info("peercert")),
            self.transport.abort,
        )

    def _admit_connection(self) -> bool:
        """Refuse the connection if there are too many. Returns whether it was admitted.

        A refused connection gets a response. If too many connections are being refused at the same
        time, the connection is aborted without a response.
        """
        kind, access = self._client.kind, self._shared.access
        if kind is ClientKind.UNTRUSTED:
            access.limit_untrusted()
            return True
        count, limit = len(self.connections), self._limits.max_connections
        if (
            kind is not ClientKind.LOCAL
        ):  # untrusted machines do not count: they have their own limit
            count -= access.untrusted_connections
            limit = self._shared.max_peer_connections
        excess = count - limit
        if excess > min(self._limits.max_refused_at_once, limit):
            self.transport.abort()
        elif excess > 0:
            self._end_with(_TOO_MANY)
        return excess <= 0

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers, as the connection is closed."""
        self._client.disconnected()
        self._set_time_limit(None)
        self._unread_watch.cancel()
        super().connection_lost(exc)
        self._closing_transport.connection_lost()
        self.ended.set()

    def shutdown(self) -> None:
        """Close after the response to the current request."""
        self._progress.keep_alive = False
        super().shutdown()

    def flush_and_close(self) -> None:
        """Stop reading, and close when the write buffer is empty."""
        self._closing_transport.flush_and_close()

    # --- reading ------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse received bytes. Bytes of a head above its maximum size are not parsed."""
        if self._closing_transport.is_closing():
            self._closing_transport.discard(data)
            return
        self._unset_keepalive_if_required()
        if self._progress.in_head and self._timer is None:  # even if the data is only an empty line
            self._set_time_limit(self._limits.head_s)
        while data and not self._stopped_reading():
            parts = self._progress.split_at_size_limit(data)
            if parts is None:
                self._parse(data)
                return
            within_limit, data = parts
            self._parse(within_limit)
            if self._progress.fields_too_large and not self._stopped_reading():
                self._end_with(HEAD_TOO_LARGE)

    def _stopped_reading(self) -> bool:
        """Whether input is ignored, because the last response of this connection is determined."""
        return (
            self._progress.refused
            or self._last_problem is not None
            or self._closing_transport.is_closing()
        )

    def _parse(self, data: bytes) -> None:
        upgrade: int | None = None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as end_of_head:
            upgrade = end_of_head.args[0]
        except httptools.HttpParserError as error:
            cause = error.__context__
            if cause is not None and not isinstance(cause, httptools.HttpParserError):
                raise  # a fault of this program in one of the callbacks below
            if not self._stopped_reading():
                self._end_with(malformed(str(error)))
        if upgrade is not None and not self._stopped_reading():
            self._parse_without_upgrade(data[upgrade:])

    def _parse_without_upgrade(self, after_head: bytes) -> None:
        """Ignore the field Upgrade (RFC 9110, 7.8): parse the same request again without it.

        With this field, the parser would end the message after its head, even if it has a body.
        ``after_head`` is the received data after the head.
        """
        lines = [b"%b %b HTTP/%b" % (
            self.parser.get_method(), self.url, self.parser.get_http_version().encode()
        )]  # fmt: skip
        lines += [b"%b: %b" % field for field in self.headers if field[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self._parse(b"\r\n".join([*lines, b"", after_head]))

    def eof_received(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Keep the connection until all complete requests are answered: the client may still read.

        The client has stopped sending.
        """
        self._closing_transport.client_sent_eof = True
        running: Any = self.cycle
        if not self._progress.in_head or running is None or running.response_complete:
            return False  # then asyncio closes the connection
        if self._last_problem is None:
            self._progress.keep_alive = running.keep_alive = False
        at_eof = running.scope["state"].get(AT_EOF)
        if at_eof is not None:
            at_eof()
        return True

    # --- callbacks of the parser --------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Start the time limit of a request, whose first byte was read."""
        super().on_message_begin()
        self._progress.begun = True
        self._limit_current_request()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header field. Spaces after its value are removed (RFC 9110, 5.5)."""
        super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        """Serve the request, or refuse it after the responses to earlier requests."""
        method = self.parser.get_method()
        if self._stopped_reading() or (self.parser.should_upgrade() and method != b"CONNECT"):
            return
        head = read_head(
            method, self.url, self.parser.get_http_version(), self.headers, self.scheme or "http"
        )
        checked = self._client.check(head)
        self._progress.head_complete()
        self._set_time_limit(None)
        if head.version == "1.0":
            self.expect_100_continue = False  # HTTP/1.0 does not have it (RFC 9110, 10.1.1)
        if isinstance(checked, Problem):
            self._refuse(checked, as_page=self._client.visitor is not None and head.accepts_page)
        else:
            self.url = origin_form(head)
            self._client.describe(checked, cast("dict[str, Any]", self.scope)["state"])
            super().on_headers_complete()
        self.headers = []  # the parser now adds the fields of the trailer, which is not used
        # If a response starts before the request was read completely, it ends the connection.
        self._progress.keep_alive, self.cycle.keep_alive = self.cycle.keep_alive, False
        self._limit_current_request()

    def on_chunk_header(self) -> None:
        """Note that the header of a chunk was read."""
        self._progress.chunk_header()

    def on_body(self, body: bytes) -> None:
        """Pass on a part of the body to the application."""
        self._progress.in_trailer = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request was read. Uvicorn's keep-alive timeout applies from now on."""
        if self.parser.should_upgrade():
            return
        if self.headers and size_of(self.headers) > MAX_HEAD_BYTES:
            self._end_with(HEAD_TOO_LARGE)
            return
        self._progress.complete()
        self._set_time_limit(None)
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._progress.keep_alive
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Continue with the next request, as the response to the oldest one was sent."""
        was_last = not self.pipeline
        super().on_response_complete()
        self._limit_current_request()
        if was_last and self._last_problem is not None:
            self._send_last(self._last_problem)

    def _refuse(self, refusal: Problem, *, as_page: bool) -> None:
        """Let uvicorn answer the request with an application that refuses it.

        So the refusal is sent after the responses to earlier requests.
        """
        self._progress.refused = True
        self.url = b"/"  # the real target may be invalid, and the application does not use it
        app = self.app
        self.app = refusing_app(refusal, as_page=as_page)
        if self._client.answers_late and self._is_idle():
            self.app = self._shared.late_refusals.app(self.app, self.transport.abort)
        super().on_headers_complete()
        self.app = app

    def _is_idle(self) -> bool:
        """Whether no earlier request is being answered."""
        running: Any = self.cycle
        return running is None or running.response_complete

    # --- limits -------------------------------------------------------------------------------

    def _limit_current_request(self) -> None:
        """Start the time limit if a request has begun and reading is not paused.

        Uvicorn pauses reading while another request waits in the pipeline.
        """
        if self._progress.begun and self._timer is None and not self.pipeline:
            limits = self._limits
            self._set_time_limit(limits.head_s if self._progress.in_head else limits.body_s)

    def _set_time_limit(self, limit_s: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if limit_s is not None:
            self._timer = self.loop.call_later(limit_s, self._on_time_limit)

    def _on_time_limit(self) -> None:
        self._end_with(self._limits.too_slow)

    def _end_with(self, problem: Problem) -> None:
        """Stop reading, and send ``problem`` as the last response, after all earlier responses."""
        self._set_time_limit(None)
        if self._closing_transport.is_closing():
            return
        in_head = self._progress.in_head
        if in_head:
            problem = self._client.problem_for_unreadable(problem)
        running: Any = self.cycle
        if self._is_idle():
            self._send_last(problem)
        elif in_head or self.pipeline:
            if not in_head:
                self.pipeline.popleft()  # the newest request: its body failed, so do not serve it
            self._last_problem = problem
            self.flow.pause_reading()
        else:
            # The body of the running request failed: the application cannot send a response now.
            running.disconnected = True
            running.message_event.set()
            self._send_last(None if running.response_started else problem)

    def _send_last(self, problem: Problem | None) -> None:
        if problem is not None and not self._closing_transport.is_closing():
            self.transport.write(encode_response(problem))
        self._closing_transport.linger()
