"""A small HTTP server for `/metrics` only: for processes that load no web stack.

It listens on the loopback address. It answers one request on each connection and closes it. Slow or
silent clients are disconnected, and connections over the bound are closed at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http import HTTPStatus

from fractal_rm.adapters.metrics.exposition import CONTENT_TYPE
from fractal_rm.engine.ports import Telemetry

HOST = "127.0.0.1"
MAX_CONNECTIONS = 16
MAX_HEAD_BYTES = 8 * 1024
REQUEST_LIMIT_S = 5.0  # to send the request
ANSWER_LIMIT_S = 10.0  # to read the answer
RETRY_S = 10.0


class MetricsServer:
    """Serves ``exposition`` on a port of this machine. It tries again while the port is in use."""

    def __init__(
        self, port: int, exposition: Callable[[], Awaitable[bytes]], telemetry: Telemetry
    ) -> None:
        self._port = port
        self._exposition = exposition
        self._telemetry = telemetry
        self._answering: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Listen until the task is cancelled. A port in use is reported once."""
        reported = False
        while True:
            try:
                server = await asyncio.start_server(
                    self._on_connection, HOST, self._port, limit=MAX_HEAD_BYTES
                )
            except OSError as error:
                if not reported:
                    reported = True
                    self._telemetry.problem(
                        "metrics_not_served", port=self._port, reason=error.strerror or str(error)
                    )
                await asyncio.sleep(RETRY_S)
                continue
            self._telemetry.event("metrics_served", url=f"http://{HOST}:{self._port}/metrics")
            try:
                async with server:
                    await server.serve_forever()
            finally:
                for task in self._answering:
                    task.cancel()

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._answering) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._answer(reader, writer))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, and close the connection."""
        try:
            try:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), REQUEST_LIMIT_S)
                writer.write(await self._response(head))
            except asyncio.LimitOverrunError:
                writer.write(_response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))
            await asyncio.wait_for(_finish(writer), ANSWER_LIMIT_S)
        except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError):
            pass  # the client has closed the connection, or is too slow
        finally:
            writer.transport.abort()

    async def _response(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        target, _, version = rest.partition(b" ")
        if not version.startswith(b"HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST)
        if method not in (b"GET", b"HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, extra_lines=("Allow: GET, HEAD",))
        if target.partition(b"?")[0] != b"/metrics":
            return _response(HTTPStatus.NOT_FOUND)
        if not _is_local_host(head):
            return _response(HTTPStatus.MISDIRECTED_REQUEST)
        try:
            body = await self._exposition()
        except Exception as error:  # noqa: BLE001 - the top of the task
            self._telemetry.problem("metrics_failed", error=repr(error), exc_info=error)
            return _response(HTTPStatus.INTERNAL_SERVER_ERROR)
        return _response(HTTPStatus.OK, body, CONTENT_TYPE, without_body=method == b"HEAD")


async def _finish(writer: asyncio.StreamWriter) -> None:
    """Send everything, then wait until the client has closed the connection or read to the end."""
    await writer.drain()
    with suppress(OSError):
        writer.close()
        await writer.wait_closed()


def _is_local_host(head: bytes) -> bool:
    """Whether Host names this machine. A web page that resolves its name to 127.0.0.1 has another.

    A request without Host is one of HTTP/1.0.
    """
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"host":
            host = value.strip().rpartition(b":")[0] or value.strip()
            return host.lower() in (b"127.0.0.1", b"localhost", b"[::1]")
    return True


def _response(
    status: HTTPStatus, body: bytes | None = None, content_type: str = "text/plain", *,
    extra_lines: tuple[str, ...] = (), without_body: bool = False,
) -> bytes:  # fmt: skip
    content = f"{status.phrase}\n".encode() if body is None else body
    lines = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(content)}",
        "Connection: close",
        *extra_lines,
    )
    head = "".join(f"{line}\r\n" for line in (*lines, "")).encode()
    return head if without_body else head + content
