"""Connections whose client is too slow, does not read, or sends too much."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import socket
from contextlib import asynccontextmanager

import pytest
from uvicorn import Config as UvicornConfig

from components import Components
from fractal_rm.adapters.memory import QuietTelemetry
from fractal_rm.config.model import Rest
from fractal_rm.web.access import Access, NoTokens
from fractal_rm.web.limits import DEFAULT_LIMITS, ConnectionLimits
from fractal_rm.web.peer_refusals import PeerRefusals
from fractal_rm.web.protocol import GuardedProtocol, SharedState
from nodes import HOST, NodeProcess


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    components = Components()
    process = NodeProcess(
        tmp_path_factory.mktemp("closing"), components=components.port, mode="api"
    )
    process.start()
    yield process
    assert process.stop() == 0
    assert "Traceback" not in process.log
    components.stop()


CLOSE = {"Connection": "close"}


@pytest.mark.parametrize("megabytes", [0.6, 5, 20])
@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/startrm", {"Content-Type": "application/json"}, 413),
        ("/startrm", {"Content-Type": "application/json", **CLOSE}, 413),
        ("/startrm", {"Content-Type": "text/plain"}, 415),
        ("/startrm", {"Content-Type": "text/plain", **CLOSE}, 415),
        ("/startrm", {"Host": "evil.example"}, 421),
        ("/startrm", {"Host": "no host"}, 400),
        ("/nothing", {}, 404),
        ("/livez", CLOSE, 405),
        ("/livez", {"X": "x" * 20_000}, 431),
    ],
)
def test_a_client_that_sends_its_whole_body_before_reading_gets_the_response(
    node, path, fields, status, megabytes
):
    client = http.client.HTTPConnection(HOST, node.rest, timeout=40)
    client.request("POST", path, b"x" * int(megabytes * 1_000_000), fields)
    reply = client.getresponse()
    assert (reply.status, json.loads(reply.read())["status"]) == (status, status)
    assert reply.headers["connection"] == "close"
    client.close()


def test_a_chunked_body_that_becomes_too_large_gets_the_response(node):
    client = http.client.HTTPConnection(HOST, node.rest, timeout=40)
    body = (b"x" * 100_000 for _ in range(50))
    client.request("POST", "/startrm", body, {"Content-Type": "application/json"})
    assert client.getresponse().status == 413
    client.close()


def test_a_client_that_closes_its_sending_side_gets_the_responses(node):
    body = json.dumps({"id_flow": "1", "is_load_balancing": True, "payload": 1}).encode()
    head = b"POST /startrm HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    request = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    for requests, statuses in [
        (request * 2, [b"200", b"200"]),
        (request + b"nonsense\r\n", [b"200", b"400"]),
    ]:
        with socket.create_connection((HOST, node.rest), 20) as client:
            client.sendall(requests)
            client.shutdown(socket.SHUT_WR)
            received = b""
            while chunk := client.recv(65_536):
                received += chunk
        assert re.findall(rb"HTTP/1.1 ([0-9]+)", received) == statuses


def test_a_refused_request_that_was_read_completely_keeps_its_connection(node):
    refused = b"POST /startrm HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
    following = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with socket.create_connection((HOST, node.rest), 20) as client:
        client.sendall(refused + following)
        received = b""
        while chunk := client.recv(65_536):
            received += chunk
    assert re.findall(rb"HTTP/1.1 ([0-9]+)", received) == [b"415", b"200"]


class Server:
    """A server with `GuardedProtocol` and an application that answers when ``release`` is set."""

    def __init__(self, answer: bytes, limits: ConnectionLimits = DEFAULT_LIMITS) -> None:
        self.answer = answer
        self.release = asyncio.Event()
        access = Access(
            Rest(), frozenset, PeerRefusals(QuietTelemetry(), lambda: 0.0), NoTokens(), dict
        )
        self.state = SharedState(access, self, limits)

    async def __call__(self, _scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await self.release.wait()
        length = str(len(self.answer)).encode()
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]}
        )
        await send({"type": "http.response.body", "body": self.answer})

    @asynccontextmanager
    async def serving(self):
        """Serve on a free port, and yield the port."""
        config = UvicornConfig(self, log_config=None, access_log=False, lifespan="off", ws="none")
        config.load()
        server = await asyncio.get_running_loop().create_server(
            lambda: GuardedProtocol(config, self.state), HOST, 0
        )
        yield server.sockets[0].getsockname()[1]
        server.close()


@pytest.mark.parametrize("head", [b"", b"Connection: close\r\n"], ids=["kept", "closed"])
async def test_a_client_that_does_not_read_its_response_is_disconnected(head):
    # The response is larger than what a kernel buffers.
    app = Server(b"x" * 30_000_000, ConnectionLimits(unread_s=0.05))
    app.release.set()
    async with app.serving() as port:
        with socket.create_connection((HOST, port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n")

            async def wait_disconnected():
                while app.state.total_requests == 0 or app.state.connections:
                    await asyncio.sleep(0.005)

            await asyncio.wait_for(wait_disconnected(), 30)


HEAD_WITHOUT_BODY = (
    b"POST / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 200000\r\n\r\n"
)


async def send_and_read(port: int, request: bytes) -> bytes:
    """Send a request. Returns what is received until the server closes the connection."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(request)
    received = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    return received


async def test_a_body_that_does_not_arrive_in_time_is_answered_once():
    app = Server(b"too late", ConnectionLimits(body_s=0.05))
    app.release.set()
    async with app.serving() as port:
        received = await send_and_read(port, HEAD_WITHOUT_BODY)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert received.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(("body", "status"), [(b"", b"408"), (b"x" * 200_000, b"200")])
async def test_the_time_limit_of_a_body_starts_when_its_request_is_served(body, status):
    """A large body is not read completely while an earlier request is being served."""
    limits = ConnectionLimits(body_s=0.05)
    app = Server(b"answer", limits)
    async with app.serving() as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + HEAD_WITHOUT_BODY)
        while not any(connection.pipeline for connection in app.state.connections):
            await asyncio.sleep(0.005)
        writer.write(body)
        await asyncio.sleep(2 * limits.body_s)
        app.release.set()
        received = await asyncio.wait_for(reader.read(), 30)
    assert re.findall(rb"HTTP/1.1 ([0-9]+)", received) == [b"200", status]
    writer.close()


REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
FIRST_PART, LAST_PART = REQUEST[:20], REQUEST[20:]


@pytest.mark.parametrize(
    ("parts", "statuses"),
    [
        ([FIRST_PART], [b"408"]),
        ([REQUEST, FIRST_PART], [b"200", b"408"]),
        ([REQUEST + FIRST_PART], [b"200", b"408"]),
        ([REQUEST + REQUEST + FIRST_PART], [b"200", b"200", b"408"]),
        ([REQUEST + REQUEST[:-1]], [b"200", b"408"]),
    ],
)
async def test_an_incomplete_head_is_answered_in_each_position(parts, statuses):
    app = Server(b"answer", ConnectionLimits(head_s=0.4))  # enough to send a complete head
    app.release.set()
    async with app.serving() as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        received = b""
        for part in parts:
            writer.write(part)
            received += await reader.read(1) if part is not parts[-1] else b""
        received += await asyncio.wait_for(reader.read(), 30)
    assert re.findall(rb"HTTP/1.1 ([0-9]+)", received) == statuses
    writer.close()


async def test_the_time_limit_of_a_head_does_not_run_while_reading_is_paused():
    """Reading is paused while a request waits behind another request."""
    limits = ConnectionLimits(head_s=0.05)
    app = Server(b"answer", limits)
    async with app.serving() as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(REQUEST)
        while not app.state.tasks:
            await asyncio.sleep(0.005)
        writer.write(REQUEST + FIRST_PART)
        while not any(connection.flow.read_paused for connection in app.state.connections):
            await asyncio.sleep(0.005)
        writer.write(LAST_PART[:-2] + b"Connection: close\r\n\r\n")
        await asyncio.sleep(2 * limits.head_s)
        app.release.set()
        received = await asyncio.wait_for(reader.read(), 30)
    assert re.findall(rb"HTTP/1.1 ([0-9]+)", received) == [b"200"] * 3
    writer.close()


# --- reading from a refused client --------------------------------------------------------------

REFUSED = (
    b"POST / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\n"
)


async def wait_closed(app: Server) -> None:
    while app.state.connections:
        await asyncio.sleep(0.005)


async def test_after_the_last_response_only_the_sending_side_is_closed():
    app = Server(b"")
    async with app.serving() as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(REFUSED)
        assert (await asyncio.wait_for(reader.read(), 30)).startswith(b"HTTP/1.1 400 ")
        assert app.state.connections  # the server still reads from the connection
        writer.close()
        await asyncio.wait_for(wait_closed(app), 30)


async def test_a_refused_client_that_stays_connected_without_sending_is_disconnected():
    app = Server(b"", ConnectionLimits(linger_s=0.05))
    async with app.serving() as port:
        _, writer = await asyncio.open_connection(HOST, port)
        writer.write(REFUSED)
        await asyncio.wait_for(wait_served(app), 30)
        await asyncio.wait_for(wait_closed(app), 30)
        writer.close()


async def test_a_refused_client_that_sends_without_end_is_disconnected():
    app = Server(b"", ConnectionLimits(linger_bytes=1_000_000))
    async with app.serving() as port:
        _, writer = await asyncio.open_connection(HOST, port)
        writer.write(REFUSED)

        async def send():
            while True:
                writer.write(b"x" * 100_000)
                await writer.drain()

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(send(), 30)
        await asyncio.wait_for(wait_closed(app), 30)


async def wait_served(app: Server) -> None:
    while app.state.total_requests == 0:
        await asyncio.sleep(0.005)


async def test_excess_connections_get_503_and_further_connections_are_aborted():
    app = Server(b"", ConnectionLimits(max_connections=1, max_refused_at_once=1))
    app.release.set()
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with app.serving() as port:
        first_reader, first_writer = await asyncio.open_connection(HOST, port)
        first_writer.write(request)
        assert (await first_reader.readline()).startswith(b"HTTP/1.1 200 ")
        second_reader, second_writer = await asyncio.open_connection(HOST, port)
        second_writer.write(request)
        refused = await asyncio.wait_for(second_reader.read(), 30)
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 1\r\n" in refused
        third_reader, third_writer = await asyncio.open_connection(HOST, port)
        assert await asyncio.wait_for(third_reader.read(), 30) == b""
        for each in (first_writer, second_writer, third_writer):
            each.close()
