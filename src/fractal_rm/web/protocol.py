"""Uvicorn's HTTP protocol with limits and access control.

Without limits, a client could keep its connection for ever by sending very slowly, or by not
reading its responses. A client that sends endless headers could fill the memory.

If the head of a request must be refused, the refusal is sent before the body is read. A request
that cannot be parsed is answered with a problem, too. In both cases, earlier pipelined requests are
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

from fractal_rm.web.access import IDENTITY, MAX_UNTRUSTED, Access, ClientKind
from fractal_rm.web.certificate import names_in
from fractal_rm.web.closing import ClosingTransport
from fractal_rm.web.head import (
    HEAD_TOO_LARGE,
    MAX_HEAD_BYTES,
    malformed,
    origin_form,
    read_head,
    size_of,
)
from fractal_rm.web.limits import DEFAULT_LIMITS, ConnectionLimits
from fractal_rm.web.problems import Problem, encode_response, problem_app
from fractal_rm.web.request_progress import RequestProgress
from fractal_rm.web.unread_responses import UnreadResponseWatch

_TOO_MANY = Problem("about:blank", "There are too many connections", 503)


class SharedState(ServerState):
    """State shared by all connections. ``access`` and ``app`` change with the configuration."""

    def __init__(self, access: Access, app: Any, limits: ConnectionLimits = DEFAULT_LIMITS) -> None:
        super().__init__()
        self.access = access
        self.app = app
        self.limits = limits
        # Local clients, calls and the journal need file descriptors, too.
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.max_peer_connections = min(limits.max_peer_connections, descriptors // 4)


class GuardedProtocol(HttpToolsProtocol):
    """Reads requests within limits (RFC 9110, 15.5.9; RFC 6585, 5), and checks each by `Access`."""

    _timer: asyncio.TimerHandle | None = None  # the time limit of the current head or body
    _last_problem: Problem | None = None  # to be sent after the responses to earlier requests

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
        """Use the new access rules and application for every request whose head is not read yet."""
        self._client.disconnected()
        self._apply_configuration()

    def _apply_configuration(self) -> None:
        self.app = self._shared.app
        client, server = self.client, self.server
        self._client = self._shared.access.connected(
            client[0] if client else "",
            server[0] if server else "",
            names_in(self.transport.get_extra_info("peercert")),
        )

    def _admit_connection(self) -> bool:
        """Refuse the connection if there are too many. Returns whether it was admitted.

        The number of refusals at the same time is limited, too; further connections are aborted.
        """
        kind, untrusted = self._client.kind, self._shared.access.untrusted_connections
        if kind is ClientKind.UNTRUSTED:
            if untrusted <= MAX_UNTRUSTED:
                return True
            self._client.note_connection_refused()
            self.transport.abort()
            return False
        count, limit = len(self.connections), self._limits.max_connections
        if kind is ClientKind.PEER:  # untrusted machines have their own limit
            count -= untrusted
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
        """Parse received bytes. The parser gets no more bytes of a head than a head may have."""
        if self._closing_transport.is_closing():
            self._closing_transport.discard(data)
            return
        self._unset_keepalive_if_required()
        if self._progress.in_head and self._timer is None:  # an empty line starts a head, too
            self._set_time_limit(self._limits.head_s)
        while data and not self._stopped_reading():
            split = self._progress.next_fields(data)
            if split is None:
                self._parse(data)
                return
            piece, data = split
            self._parse(piece)
            if self._progress.fields_too_large and not self._stopped_reading():
                self._end_with(HEAD_TOO_LARGE)

    def _stopped_reading(self) -> bool:
        """Whether the last response of this connection is known, so that input is dropped."""
        return (
            self._progress.refused
            or self._last_problem is not None
            or self._closing_transport.is_closing()
        )

    def _parse(self, data: bytes) -> None:
        upgrade: int | None = None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as found:
            upgrade = found.args[0]
        except httptools.HttpParserError as error:
            cause = error.__context__
            if cause is not None and not isinstance(cause, httptools.HttpParserError):
                raise  # a fault of this program, in one of the callbacks below
            if not self._stopped_reading():
                self._end_with(malformed(str(error)))
        if upgrade is not None and not self._stopped_reading():
            self._parse_without_upgrade(data[upgrade:])

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Ignore Upgrade (RFC 9110, 7.8): parse the same request again without that field.

        With the field, the parser ends the message after its head, whatever its length is.
        """
        lines = [b"%b %b HTTP/%b" % (
            self.parser.get_method(), self.url, self.parser.get_http_version().encode()
        )]  # fmt: skip
        lines += [b"%b: %b" % field for field in self.headers if field[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self._parse(b"\r\n".join([*lines, b"", rest]))

    def eof_received(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Answer the complete requests of a client that has stopped sending. It may still read."""
        self._closing_transport.client_sent_eof = True
        running: Any = self.cycle
        if not self._progress.in_head or running is None or running.response_complete:
            return False  # asyncio closes the connection
        if self._last_problem is None:
            self._progress.keep_alive = running.keep_alive = False
        return True

    # --- callbacks of the parser --------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Start the time limit of a request, as its first byte was read."""
        super().on_message_begin()
        self._progress.begun = True
        self._limit_current_request()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header field, without the spaces after its value (RFC 9110, 5.5)."""
        super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        """Serve the request, or refuse it after the responses to earlier requests."""
        method = self.parser.get_method()
        if self._stopped_reading() or (self.parser.should_upgrade() and method != b"CONNECT"):
            return
        head = read_head(method, self.url, self.parser.get_http_version(), self.headers)
        checked = self._client.check(head)
        self._progress.head_complete()
        self._set_time_limit(None)
        if head.version == "1.0":
            self.expect_100_continue = False  # RFC 9110, 10.1.1
        if isinstance(checked, Problem):
            self._refuse(checked)
        else:
            self.url = origin_form(head)
            cast("dict[str, Any]", self.scope)["state"][IDENTITY] = checked
            super().on_headers_complete()
        self.headers = []  # from here on, the parser adds the trailer, which is not used
        # If a response starts before the request was read to its end, the connection is closed.
        self._progress.keep_alive, self.cycle.keep_alive = self.cycle.keep_alive, False
        self._limit_current_request()

    def on_chunk_header(self) -> None:
        """Note that the size of a chunk was read."""
        self._progress.chunk_header()

    def on_body(self, body: bytes) -> None:
        """Pass on content that was read."""
        self._progress.in_trailer = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Finish the request. Uvicorn's keep-alive timeout applies until the next request."""
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
        """Continue after the response to the oldest request was sent."""
        was_last = not self.pipeline
        super().on_response_complete()
        self._limit_current_request()
        if was_last and self._last_problem is not None:
            self._send_last(self._last_problem)

    def _refuse(self, refusal: Problem) -> None:
        """Let uvicorn answer the request, in its order, by an application that only refuses."""
        self._progress.refused = True
        self.url = b"/"  # the target may be invalid, and the application ignores it
        app: Any = self.app
        self.app = problem_app(refusal)
        super().on_headers_complete()
        self.app = app

    # --- limits -------------------------------------------------------------------------------

    def _limit_current_request(self) -> None:
        """Start the time limit of a request that has begun, unless reading is paused.

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
        limits = self._limits
        detail = f"its head may take {limits.head_s:.0f} s, and its body {limits.body_s:.0f} s"
        self._end_with(Problem("about:blank", "The request came too slowly", 408, detail))

    def _end_with(self, problem: Problem) -> None:
        """Stop reading, and send ``problem`` as the last response, after all earlier responses."""
        self._set_time_limit(None)
        if self._closing_transport.is_closing():
            return
        in_head = self._progress.in_head
        if in_head:
            problem = self._client.problem_for_unreadable(problem)
        running: Any = self.cycle
        if running is None or running.response_complete:
            self._send_last(problem)
        elif in_head or self.pipeline:
            if not in_head:
                self.pipeline.popleft()  # its body failed, so it must not be served
            self._last_problem = problem
            self.flow.pause_reading()
        else:
            # The body of the running request failed. The application can send nothing more.
            running.disconnected = True
            running.message_event.set()
            self._send_last(None if running.response_started else problem)

    def _send_last(self, problem: Problem | None) -> None:
        if problem is not None and not self._closing_transport.is_closing():
            self.transport.write(encode_response(problem))
        self._closing_transport.linger()
