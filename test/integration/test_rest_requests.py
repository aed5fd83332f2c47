"""The response to each kind of request that HTTP/1.1 allows or forbids (RFC 9112, RFC 9110).

The requests are sent as bytes.
"""

from __future__ import annotations

import asyncio
import json
import re
import resource
import socket
from functools import partial

import pytest
from uvicorn import Config as UvicornConfig

from components import Components
from fractal_rm.adapters.clock import SystemClock
from fractal_rm.adapters.memory import QuietTelemetry
from fractal_rm.config.model import Rest
from fractal_rm.domain.address import read_network
from fractal_rm.web.access import Access, NoTokens
from fractal_rm.web.head import MAX_HEAD_BYTES
from fractal_rm.web.limits import DEFAULT_LIMITS
from fractal_rm.web.peer_refusals import PeerRefusals
from fractal_rm.web.protocol import GuardedProtocol, SharedState
from fractal_rm.web.untrusted import MAX_UNTRUSTED
from nodes import HOST, NodeProcess

TRIGGER = b'{"id_flow": "1", "is_load_balancing": true, "payload": 1}'
LENGTH = b"Content-Length: %d" % len(TRIGGER)
CHUNK_SIZE = b"%x" % len(TRIGGER)
CHUNKED = b"Transfer-Encoding: chunked"
UPGRADE = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
LAST_REQUEST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def request(*fields: bytes, line=b"POST /startrm HTTP/1.1", body=TRIGGER, host=b"Host: localhost"):
    """A trigger with the given fields, a host and a content type."""
    lines = [line, *([host] if host else []), b"Content-Type: application/json", *fields]
    return b"\r\n".join([*lines, b"", body])


def chunks(*, size=CHUNK_SIZE, end=b"\r\n", trailer=b"") -> bytes:
    return size + end + TRIGGER + b"\r\n0\r\n" + trailer + b"\r\n"


def get(line: bytes) -> bytes:
    return line + b"\r\nHost: localhost\r\n\r\n"


def request_with_head_of(size: int) -> bytes:
    """A request whose head has ``size`` bytes."""
    other_bytes = len(request(LENGTH, b"X: ")) - len(TRIGGER)
    return request(LENGTH, b"X: " + b"x" * (size - other_bytes))


# The bytes to send and the statuses of the responses, by the name of the case. A status None means
# that the node closes the connection although the request succeeds.
TABLE = {
    "a trigger": (request(LENGTH), [200]),
    "chunked": (request(CHUNKED, body=chunks()), [200]),
    "chunked, in another case": (request(b"TRANSFER-encoding: Chunked", body=chunks()), [200]),
    # Upgrade is ignored: RFC 9110, 7.8
    "h2c": (request(*UPGRADE, LENGTH), [200]),
    "h2c, chunked": (request(*UPGRADE, CHUNKED, body=chunks()), [200]),
    "h2c, then a request": (request(*UPGRADE, LENGTH) + request(LENGTH), [200, 200]),
    "h2c, then nonsense": (request(*UPGRADE, LENGTH) + b"NONSENSE\r\n\r\n", [200, 400]),
    "h2c, with a bad chunk": (request(*UPGRADE, CHUNKED, body=chunks(size=b"zz")), [400]),
    "h2c, refused": (request(*UPGRADE, LENGTH, b"Host: localhost"), [400]),
    "websocket": (request(b"Connection: upgrade", b"Upgrade: websocket", LENGTH), [200]),
    # HTTP/2 and other versions
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", [400]),
    "HTTP/2.0": (request(LENGTH, line=b"POST /startrm HTTP/2.0"), [505]),
    "HTTP/1.2": (request(LENGTH, line=b"POST /startrm HTTP/1.2"), [400]),
    "HTTP/0.9": (b"GET /livez\r\n\r\n", [505]),
    "TLS": (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"a" * 100, [400]),
    # HTTP/1.0: the connection always ends with the response
    "HTTP/1.0": (request(LENGTH, line=b"POST /startrm HTTP/1.0", host=None), [200, None]),
    "HTTP/1.0, kept alive": (
        request(LENGTH, b"Connection: keep-alive", line=b"POST /startrm HTTP/1.0"), [200, None]),
    "HTTP/1.0, chunked": (request(CHUNKED, line=b"POST /startrm HTTP/1.0", body=chunks()), [400]),
    "HTTP/1.0, Expect": (
        request(LENGTH, b"Expect: 100-continue", line=b"POST /startrm HTTP/1.0"), [200, None]),
    # the host: RFC 9112, 3.2
    "no host": (request(LENGTH, host=None), [400]),
    "two hosts": (request(LENGTH, b"Host: evil.example"), [400]),
    "the same host twice": (request(LENGTH, b"Host: localhost"), [400]),
    "an empty host": (request(LENGTH, host=b"Host:"), [400]),
    "a host with a user": (request(LENGTH, host=b"Host: evil@localhost"), [400]),
    "a host with a path": (request(LENGTH, host=b"Host: localhost/a"), [400]),
    "a host with a bad port": (request(LENGTH, host=b"Host: localhost:a"), [400]),
    "two hosts in one": (request(LENGTH, host=b"Host: localhost, localhost"), [400]),
    "another host": (request(LENGTH, host=b"Host: evil.example"), [421]),
    "two origins": (
        request(LENGTH, b"Origin: http://localhost", b"Origin: http://evil.example"), [421]),
    # the target: RFC 9112, 3.2
    "absolute form": (request(LENGTH, line=b"POST http://localhost/startrm HTTP/1.1"), [200]),
    "absolute form, and another host": (
        request(LENGTH, line=b"POST http://localhost/startrm HTTP/1.1", host=b"Host: evil"), [200]),
    "absolute form without a path": (get(b"OPTIONS http://localhost HTTP/1.1"), [204]),
    "absolute form of another host": (
        request(LENGTH, line=b"POST http://evil.example/startrm HTTP/1.1"), [421]),
    "absolute form with a user": (
        request(LENGTH, line=b"POST http://a@localhost/startrm HTTP/1.1"), [400]),
    "absolute form, https": (
        request(LENGTH, line=b"POST https://localhost/startrm HTTP/1.1"), [400]),
    "two tokens": (request(LENGTH, b"Authorization: Bearer a", b"Authorization: Bearer b"), [400]),
    "authority form": (request(LENGTH, line=b"POST localhost:5000 HTTP/1.1"), [400]),
    "CONNECT": (get(b"CONNECT localhost:5000 HTTP/1.1"), [501]),
    "the target *": (get(b"OPTIONS * HTTP/1.1"), [404]),
    "a trigger to the target *": (request(LENGTH, line=b"POST * HTTP/1.1"), [400]),
    "a fragment": (request(LENGTH, line=b"POST /startrm#a HTTP/1.1"), [400]),
    "a target without a slash": (request(LENGTH, line=b"POST startrm HTTP/1.1"), [400]),
    "a control character in the target": (
        request(LENGTH, line=b"POST /start\1rm HTTP/1.1"), [400]),
    "UTF-8 in the target": (request(LENGTH, line=b"POST /start\xc3\xa9 HTTP/1.1"), [400]),
    # the request line: RFC 9112, 3
    "tabs for spaces": (request(LENGTH, line=b"POST\t/startrm\tHTTP/1.1"), [400]),
    "a space at the end": (request(LENGTH, line=b"POST /startrm HTTP/1.1 "), [400]),
    "an unknown method": (request(LENGTH, line=b"FOO /startrm HTTP/1.1"), [400]),
    "a method in lower case": (request(LENGTH, line=b"post /startrm HTTP/1.1"), [400]),
    "TRACE": (get(b"TRACE /startrm HTTP/1.1"), [405]),
    "empty lines before a request": (b"\r\n\r\n" + request(LENGTH), [200]),
    # the fields: RFC 9112, 5
    "a folded line": (request(LENGTH, b"X: a\r\n b"), [400]),
    "a folded first line": (get(b"GET /livez HTTP/1.1\r\n X: a"), [400]),
    "a space before the colon": (request(b"Content-Length : 5"), [400]),
    "a space in a name": (request(LENGTH, b"X A: a"), [400]),
    "a field without a colon": (request(LENGTH, b"XA"), [400]),
    "a field without a name": (request(LENGTH, b": a"), [400]),
    "NUL": (request(LENGTH, b"X: a\0b"), [400]),
    "a control character": (request(LENGTH, b"X: a\x01b"), [400]),
    "CR alone": (request(LENGTH, b"X: a\rb"), [400]),
    "LF alone": (request(LENGTH).replace(b"\r\n", b"\n"), [400]),
    "one LF alone": (request(LENGTH, b"X: a\nY: b"), [400]),
    "Latin-1 in a value": (request(LENGTH, b"X: \xe4"), [200]),
    # the length of the body: RFC 9112, 6
    "two lengths": (request(LENGTH, b"Content-Length: 5"), [400]),
    "the same length twice": (request(LENGTH, LENGTH), [400]),
    "a list of lengths": (request(b"Content-Length: 5, 5"), [400]),
    "a length with a sign": (request(b"Content-Length: +5"), [400]),
    "a negative length": (request(b"Content-Length: -5"), [400]),
    "a length in hexadecimal": (request(b"Content-Length: 0x5"), [400]),
    "an empty length": (request(b"Content-Length:"), [400]),
    "a length that overflows": (request(b"Content-Length: " + b"9" * 30), [400]),
    "a length of an exabyte": (request(b"Content-Length: " + b"9" * 18), [413]),
    "a length, and chunked": (request(LENGTH, CHUNKED, body=chunks()), [400]),
    "chunked, and a length": (request(CHUNKED, LENGTH, body=chunks()), [400]),
    "gzip, chunked": (request(b"Transfer-Encoding: gzip, chunked", body=chunks()), [501]),
    "gzip and chunked": (request(b"Transfer-Encoding: gzip", CHUNKED, body=chunks()), [501]),
    "gzip": (request(b"Transfer-Encoding: gzip", body=chunks()), [400]),
    "chunked, gzip": (request(b"Transfer-Encoding: chunked, gzip", body=chunks()), [400]),
    "identity": (request(b"Transfer-Encoding: identity", body=chunks()), [400]),
    "xchunked": (request(b"Transfer-Encoding: xchunked", body=chunks()), [400]),
    "chunked twice": (request(CHUNKED, CHUNKED, body=chunks()), [400]),
    "an empty transfer coding": (request(b"Transfer-Encoding:", body=chunks()), [400]),
    # the chunks: RFC 9112, 7.1
    "an invalid size": (request(CHUNKED, body=chunks(size=b"zz")), [400]),
    "a size that overflows": (request(CHUNKED, body=chunks(size=b"f" * 20)), [400]),
    "a negative size": (request(CHUNKED, body=chunks(size=b"-5")), [400]),
    "a size and a space": (request(CHUNKED, body=chunks(size=b"5 ")), [400]),
    "LF after a size": (request(CHUNKED, body=chunks(end=b"\n")), [400]),
    "a chunk longer than its size": (request(CHUNKED, body=chunks(size=b"5")), [400]),
    "an extension": (request(CHUNKED, body=chunks(end=b';a=b;c="d"\r\n')), [200]),
    "a long extension": (
        request(CHUNKED, body=chunks(end=b";a=" + b"b" * 20_000 + b"\r\n")), [200]),
    "a trailer": (request(CHUNKED, body=chunks(trailer=b"Idempotency-Key: no\r\n")), [200]),
    "a long trailer": (
        request(CHUNKED, body=chunks(trailer=b"X: " + b"x" * 40_000 + b"\r\n")), [431]),
    "many trailers": (request(CHUNKED, body=chunks(trailer=b"X: x\r\n" * 4_000)), [431]),
    # the size of the head
    "the largest head": (request_with_head_of(MAX_HEAD_BYTES), [200]),
    "a larger head": (request_with_head_of(MAX_HEAD_BYTES + 1), [431]),
    "a head of 20 KB": (request_with_head_of(20_000), [431]),
    "a target of 20 KB": (get(b"GET /" + b"a" * 20_000 + b" HTTP/1.1"), [431]),
    "many fields": (request(LENGTH, *[b"X: x"] * 4_000), [431]),
    "many spaces": (request(LENGTH, b"X: " + b" " * 20_000 + b"x"), [431]),
    "many empty lines": (b"\r\n" * 10_000 + request(LENGTH), [431]),
    "a large head after a request": (request(LENGTH) + request_with_head_of(20_000), [200, 431]),
    # Expect: RFC 9110, 10.1.1
    "Expect": (request(LENGTH, b"Expect: 100-continue"), [100, 200]),
    "Expect with an unknown value": (request(LENGTH, b"Expect: gold"), [200]),
    # several requests on a connection: RFC 9112, 9.3.2
    "pipelined": (request(LENGTH) * 3, [200, 200, 200]),
    "pipelined, then nonsense": (request(LENGTH) + b"NONSENSE\r\n\r\n", [200, 400]),
    "pipelined, then a bad chunk": (
        request(LENGTH) + request(CHUNKED, body=chunks(size=b"zz")), [200, 400]),
    "pipelined, then refused": (request(LENGTH) * 2 + request(LENGTH, host=None), [200, 200, 400]),
    "after Connection: close": (
        request(LENGTH, b"Connection: close") + request(LENGTH), [200, None]),
}  # fmt: skip
EACH_CASE = pytest.mark.parametrize(("request_bytes", "statuses"), TABLE.values(), ids=TABLE)


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    components = Components()
    process = NodeProcess(
        tmp_path_factory.mktemp("requests"), components=components.port, mode="api"
    )
    process.edit("comm", max_trigger_bytes=10_000)
    process.start()
    yield process
    assert process.stop() == 0
    assert "Traceback" not in process.log
    assert process.problems() == []
    components.stop()


class Responses:
    """The responses on a connection: all statuses, and the fields and body of the last response."""

    def __init__(self, received: bytes) -> None:
        self.statuses: list[int] = []
        while received:
            head, _, received = received.partition(b"\r\n\r\n")
            lines = head.split(b"\r\n")
            self.statuses.append(int(lines[0].split()[1]))
            fields = (line.lower().split(b": ", 1) for line in lines[1:])
            self.fields = {name.decode(): value.decode() for name, value in fields}
            length = int(self.fields.get("content-length", 0))
            self.body, received = received[:length], received[length:]


def with_last_request(request_bytes: bytes, statuses: list[int | None]) -> tuple[bytes, list[int]]:
    """Append `LAST_REQUEST`, which is answered if the node keeps the connection open.

    Returns the bytes to send, and the statuses of all responses.
    """
    if statuses[-1] in (200, 204, 404, 405):
        return request_bytes + LAST_REQUEST, [*statuses, 200]
    return request_bytes + LAST_REQUEST, [status for status in statuses if status]


@EACH_CASE
def test_a_request_is_served_or_refused_with_problem_details(node, request_bytes, statuses):
    request_bytes, expected_statuses = with_last_request(request_bytes, statuses)
    runs = len(node.runs())
    with socket.create_connection((HOST, node.rest), 20) as client:
        client.sendall(request_bytes)
        received = b""
        while received_part := client.recv(65_536):
            received += received_part
    responses = Responses(received)
    assert responses.statuses == expected_statuses
    if responses.statuses[-1] >= 400:
        assert responses.fields["content-type"] == "application/problem+json"
        assert responses.fields["connection"] == "close"
        assert json.loads(responses.body)["status"] == responses.statuses[-1]
    assert len(node.runs()) - runs == sum(status == 200 for status in statuses)


def test_a_trailer_is_ignored(node):
    request_bytes = request(CHUNKED, body=chunks(trailer=b"Idempotency-Key: late\r\n"))
    with socket.create_connection((HOST, node.rest), 20) as client:
        client.sendall(request_bytes + request_bytes + LAST_REQUEST)
        received = b""
        while received_part := client.recv(65_536):
            received += received_part
    first, second = re.findall(rb'"run":"([0-9A-Z]+)"', received)
    assert first != second


# --- in this process: TCP segments ------------------------------------------------------------


class Wire(asyncio.Transport):
    """A transport that records what is sent."""

    def __init__(self, client: str = "127.0.0.1") -> None:
        super().__init__({"peername": (client, 1), "sockname": ("127.0.0.1", 2)})
        self.sent = b""
        self.ended = asyncio.Event()
        self.is_closing = self.ended.is_set

    def write(self, data):
        self.sent += data

    def can_write_eof(self):
        return True

    def write_eof(self):
        self.ended.set()

    close = abort = write_eof

    def get_write_buffer_size(self):
        return 0

    def pause_reading(self):
        """Reading is never paused."""

    resume_reading = pause_reading


async def app(scope, receive, send):
    """Answer a request by its method, path and length, as a node does."""
    too_large = (b"content-length", b"9" * 18) in scope["headers"]
    refused = {"*": 404, "/": 404, "TRACE": 405}
    status = refused.get(scope["path"]) or refused.get(scope["method"]) or 200
    while not too_large and (await receive()).get("more_body"):
        pass
    fields = [(b"content-length", b"0")]
    status = 413 if too_large else status
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": b""})


def protocol_factory(
    rest: Rest, authenticator=None, limits=DEFAULT_LIMITS, now_s=SystemClock.monotonic_s
):
    """A function that makes the protocol of a server for one connection."""
    config = UvicornConfig(app, log_config=None, access_log=False, lifespan="off", ws="none")
    config.load()
    refusals = PeerRefusals(QuietTelemetry(), now_s)
    access = Access(rest, frozenset, refusals, authenticator or NoTokens(), dict, now_s)
    return partial(GuardedProtocol, config, SharedState(access, app, limits))


@pytest.mark.parametrize("size", [1, 7, 1_000, 1 << 20])
async def test_responses_do_not_depend_on_tcp_segments(size):
    received, expected_statuses = {}, {}
    for name, row in TABLE.items():
        request_bytes, expected_statuses[name] = with_last_request(*row)
        wire, connection = Wire(), protocol_factory(Rest())()
        connection.connection_made(wire)
        for at in range(0, len(request_bytes), size):
            connection.data_received(request_bytes[at : at + size])
            if at % 64 == 0:
                await asyncio.sleep(0)
        await asyncio.wait_for(wire.ended.wait(), 20)
        connection.connection_lost(None)
        received[name] = Responses(wire.sent).statuses
    expected_statuses["absolute form without a path"] = [404, 200]  # this service has no pages
    assert received == expected_statuses


@pytest.mark.parametrize(("descriptors", "max_remote"), [(20_000, 1_700), (256, 64)])
async def test_connections_of_other_machines_leave_room_for_local_connections(
    monkeypatch, descriptors, max_remote
):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (descriptors, descriptors))
    connect = protocol_factory(Rest(trusted_peers=(read_network("10.1.0.0/24"),)))
    connections = []

    def connect_many(client: str, number: int) -> list[Wire]:
        pairs = [(connect(), Wire(client)) for _ in range(number)]
        for connection, wire in pairs:
            connection.connection_made(wire)
            if wire.ended.is_set() and not wire.sent:
                connection.connection_lost(None)  # the connection was aborted
            else:
                connections.append(connection)
        return [wire for _, wire in pairs]

    peers = connect_many("10.1.0.2", DEFAULT_LIMITS.max_connections + 500)
    connect_many("10.9.9.9", MAX_UNTRUSTED)
    assert not any(wire.ended.is_set() for wire in connect_many("127.0.0.1", 100))
    refused = [wire for wire in peers if wire.sent]
    assert len(refused) == min(max_remote, DEFAULT_LIMITS.max_refused_at_once)
    assert Responses(refused[0].sent).statuses == [503]
    assert peers[0].ended.is_set() is peers[max_remote - 1].ended.is_set() is False
    for connection in connections:
        connection.connection_lost(None)
