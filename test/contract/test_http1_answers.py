"""The framing of answers (RFC 9112), received in segments of any size."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from fractal_rm.adapters.http1.connection import Connection
from fractal_rm.adapters.http1.heads import HeadCache
from fractal_rm.adapters.http1.outbox import Outbox
from fractal_rm.domain.call_errors import BadReply, ConnectFailed, ReplyTooLarge
from scripted_server import calling, serving, to

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKS = b"2\r\nok\r\n0\r\n\r\n"
LENGTH, CHUNKED = b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n"


def answer(fields: bytes, body: bytes = b"ok", head: bytes = HEAD) -> bytes:
    return head + fields + b"\r\n" + body


# For each case: the received bytes, the body, and whether the connection is kept.
ACCEPTED = {
    "a length": (answer(LENGTH), b"ok", True),
    "chunks": (answer(CHUNKED, CHUNKS), b"ok", True),
    "a length before chunks": (answer(LENGTH + CHUNKED, CHUNKS), b"ok", False),
    "a length after chunks": (answer(CHUNKED + b"Content-Length: 99\r\n", CHUNKS), b"ok", False),
    "a length over the limit with chunks":
        (answer(b"Content-Length: 999999999\r\n" + CHUNKED, CHUNKS), b"ok", False),
    "chunks in HTTP/1.0":
        (answer(b"Connection: keep-alive\r\n" + CHUNKED, CHUNKS, b"HTTP/1.0 200 OK\r\n"),
         b"ok", False),
    "a trailer": (answer(CHUNKED, b"2\r\nok\r\n0\r\nX: y\r\n\r\n"), b"ok", True),
    "a length as a trailer":
        (answer(CHUNKED, b"2\r\nok\r\n0\r\nContent-Length: 5\r\n\r\n"), b"ok", True),
    "chunks as a trailer":
        (answer(CHUNKED, b"2\r\nok\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"), b"ok", True),
    "a coding as a trailer":
        (answer(CHUNKED, b"2\r\nok\r\n0\r\nContent-Encoding: gzip\r\n\r\n"), b"ok", True),
    "a folded header": (answer(b"X: a\r\n b\r\n\t c\r\n" + LENGTH), b"ok", True),
    "a folded length": (answer(b"Content-Length:\r\n 2\r\n"), b"ok", True),
    "folded chunks": (answer(b"Transfer-Encoding:\r\n\tchunked\r\n", CHUNKS), b"ok", True),
    "a fold that looks like a length":
        (answer(b"X: a\r\n Content-Length: 9\r\n" + LENGTH), b"ok", True),
    "folded headers in an interim answer too":
        (answer(b"X: a\r\n b\r\n", b"", b"HTTP/1.1 103 Hints\r\n")
         + answer(b"X: a\r\n b\r\n" + LENGTH), b"ok", True),
    "a body that looks folded": (answer(b"Content-Length: 4\r\n", b"\r\n a"), b"\r\n a", True),
    "a 204 without a body": (answer(b"", b"", b"HTTP/1.1 204 No Content\r\n"), b"", True),
    "a 204 with a length": (answer(LENGTH, b"", b"HTTP/1.1 204 No Content\r\n"), b"", False),
    "a 204 with chunks": (answer(CHUNKED, b"", b"HTTP/1.1 204 No Content\r\n"), b"", False),
    "a 304 with a length": (answer(LENGTH, b"", b"HTTP/1.1 304 Not Modified\r\n"), b"", True),
    "no reason phrase": (answer(LENGTH, b"ok", b"HTTP/1.1 200\r\n"), b"ok", True),
    "the coding identity": (answer(b"Content-Encoding: identity\r\n" + LENGTH), b"ok", True),
}  # fmt: skip
NOT_HTTP = "the answer is not HTTP/1.1: "
# For each case: the received bytes, and the beginning of the error text.
REFUSED = {
    "two lengths": (answer(LENGTH + LENGTH), NOT_HTTP + "Duplicate Content-Length"),
    "a list of lengths": (answer(b"Content-Length: 2, 2\r\n"), NOT_HTTP),
    "two lengths in a folded line": (answer(b"Content-Length: 2\r\n 2\r\n"), NOT_HTTP),
    "a length with a sign": (answer(b"Content-Length: +2\r\n"), NOT_HTTP),
    "a length that is empty": (answer(b"Content-Length: \r\n"), NOT_HTTP),
    "another transfer coding": (answer(b"Transfer-Encoding: gzip, chunked\r\n", CHUNKS),
                                "transfer coding 'gzip, chunked' was not requested"),
    "chunked is not the last coding": (answer(b"Transfer-Encoding: chunked, gzip\r\n", CHUNKS),
                             "transfer coding 'chunked, gzip' was not requested"),
    "two codings in two lines": (answer(CHUNKED + b"Transfer-Encoding: identity\r\n", b"ok"),
                                        "transfer coding 'chunked, identity' was not requested"),
    "an empty coding after chunked":
        (answer(b"Transfer-Encoding: chunked,\r\n", CHUNKS),
         "transfer coding 'chunked, ' was not requested"),
    "an empty coding before chunked":
        (answer(b"Transfer-Encoding: , chunked\r\n", CHUNKS),
         "transfer coding ', chunked' was not requested"),
    "another transfer coding in a folded head":
        (answer(b"Transfer-Encoding: gzip,\r\n chunked\r\n", CHUNKS),
         "transfer coding 'gzip, chunked' was not requested"),
    "a folded head with an invalid status":
        (answer(b"X: a\r\n b\r\n" + LENGTH, b"ok", b"HTTP/1.1 099 Odd\r\n"),
         "099 is not a valid status"),
    "chunks twice": (answer(CHUNKED + CHUNKED, CHUNKS),
                     "transfer coding 'chunked, chunked' was not requested"),
    "another coding with a length": (answer(LENGTH + b"Transfer-Encoding: identity\r\n"),
                                       "transfer coding 'identity' was not requested"),
    "a space before the colon": (answer(b"Content-Length : 2\r\n"), NOT_HTTP),
    "a space before the first header": (answer(b" X: a\r\n" + LENGTH), NOT_HTTP),
    "lines without CR": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", NOT_HTTP),
    "a line without CR": (answer(b"X: a\n" + LENGTH), NOT_HTTP),
    "a CR within a header": (answer(b"X: a\rb\r\n" + LENGTH), NOT_HTTP),
    "a NUL within a header": (answer(b"X: a\0b\r\n" + LENGTH), NOT_HTTP),
    "a folded trailer": (answer(CHUNKED, b"2\r\nok\r\n0\r\nX: a\r\n b\r\n\r\n"), NOT_HTTP),
    "a chunk size with a sign": (answer(CHUNKED, b"+2\r\nok\r\n0\r\n\r\n"), NOT_HTTP),
    "a chunk size with 0x": (answer(CHUNKED, b"0x2\r\nok\r\n0\r\n\r\n"), NOT_HTTP),
    "a chunk that is longer than its size": (answer(CHUNKED, b"2\r\nokay\r\n0\r\n\r\n"), NOT_HTTP),
    "a status below 100":
        (answer(LENGTH, b"ok", b"HTTP/1.1 099 Odd\r\n"), "099 is not a valid status"),
    "a status of two digits": (answer(LENGTH, b"ok", b"HTTP/1.1 20 OK\r\n"), NOT_HTTP),
}  # fmt: skip


class Transport(asyncio.Transport):
    """A transport that ignores written bytes. It is closed when the test sets ``closed``."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: bytes) -> None:
        pass

    def abort(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return 0


async def receive(*segments: bytes, heads: HeadCache | None = None):
    """Let a connection receive the answer to a request in segments.

    Returns the future of the reply, and whether the connection is kept.
    """
    idle: list[Connection] = []
    connection = Connection(idle.append, lambda _: None, Outbox(), heads or HeadCache())
    transport = Transport()
    connection.connection_made(transport)
    loop = asyncio.get_running_loop()
    reply = connection.send(b"", loop, loop.time() + 60, 1_000)
    for segment in segments:
        if not reply.done():
            connection.data_received(segment)
    is_kept = bool(idle) and not transport.closed
    connection.connection_lost(None)
    return reply, is_kept


def splits(data: bytes):
    """Yield the data in one segment, cut into two segments at each byte, and byte by byte."""
    yield (data,)
    yield from ((data[:at], data[at:]) for at in range(1, len(data)))
    yield tuple(data[at : at + 1] for at in range(len(data)))


@pytest.mark.parametrize("case", ACCEPTED)
async def test_an_answer_is_read_in_the_same_way_in_segments_of_any_size(case):
    data, body, must_be_kept = ACCEPTED[case]
    for segments in splits(data):
        reply, is_kept = await receive(*segments)
        assert (reply.result().body, is_kept) == (body, must_be_kept), segments


@pytest.mark.parametrize("case", REFUSED)
async def test_an_invalid_answer_is_refused_in_segments_of_any_size(case):
    data, error = REFUSED[case]
    for segments in splits(data):
        reply, is_kept = await receive(*segments)
        with pytest.raises(BadReply) as caught:
            reply.result()
        assert caught.value.reason.startswith(error), segments
        assert caught.value.sent
        assert not is_kept


@pytest.mark.parametrize("case", ACCEPTED)
async def test_an_answer_is_read_in_the_same_way_if_its_head_is_known(case):
    data, body, must_be_kept = ACCEPTED[case]
    heads = HeadCache()
    for _ in range(4):
        reply, is_kept = await receive(data, heads=heads)
        assert (reply.result().body, is_kept) == (body, must_be_kept)
    reply, is_kept = await receive(data + b"HTTP/1.1 200 OK\r\n", heads=heads)
    assert (reply.result().body, is_kept) == (body, False)


@pytest.mark.parametrize("case", ACCEPTED)
async def test_bytes_that_follow_an_answer_are_not_the_answer_to_the_next_call(case):
    data, body, _ = ACCEPTED[case]
    bad = answer(LENGTH, b"!!")
    async with serving([data, bad], [data, 0.05, bad]) as server, calling() as caller:
        for _ in range(2):
            assert (await caller.call(to(server))).body == body
            await server.closed.wait()
            server.closed.clear()
        assert (await caller.call(to(server))).body == b"ok"
        assert server.connections == 3


async def test_the_error_for_an_incomplete_answer_contains_its_status():
    reply, _ = await receive(answer(b"Content-Length: 9\r\n", b"bu", b"HTTP/1.1 503 Busy\r\n"))
    with pytest.raises(BadReply, match=r"closed before the answer was complete \(status 503\)"):
        reply.result()


@pytest.mark.parametrize("closed", ["before", "closing", "at once"])
async def test_a_request_on_a_connection_that_was_closed_before_counts_as_not_sent(closed):
    connection = Connection(lambda _: None, lambda _: None, Outbox(), HeadCache())
    transport, loop = Transport(), asyncio.get_running_loop()
    connection.connection_made(transport)
    error = ssl.SSLError(1, "alert")
    error.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    if closed == "before":
        connection.connection_lost(error)
    transport.closed = True
    reply = connection.send(b"GET", loop, loop.time() + 60, 1_000)
    if closed == "closing":
        await asyncio.sleep(0)
    if closed != "before":
        connection.connection_lost(error)
    with pytest.raises(ConnectFailed, match="was sent: TLS was refused: the server asks"):
        await reply


async def test_a_request_counts_as_not_sent_if_the_server_refuses_the_certificate():
    connection = Connection(lambda _: None, lambda _: None, Outbox(), HeadCache())
    connection.connection_made(Transport())
    loop = asyncio.get_running_loop()
    reply = connection.send(b"POST", loop, loop.time() + 60, 1_000)
    await asyncio.sleep(0)  # lets the connection send the request
    error = ssl.SSLError(1, "alert")
    error.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    connection.connection_lost(error)
    with pytest.raises(ConnectFailed, match="TLS was refused: the server asks for a certificate"):
        await reply


async def test_a_folded_header_becomes_one_line():
    reply, _ = await receive(answer(b"ETag: a\r\n\t b\r\nX:\r\n c\r\n" + LENGTH))
    assert reply.result().header("etag") == "a b"
    assert reply.result().header("x") == "c"


async def test_the_size_of_a_body_is_limited_even_after_a_folded_header():
    for length in (b"Content-Length: 1001\r\n", b""):
        reply, _ = await receive(answer(b"X: a\r\n b\r\n" + length, b"x" * 1_001))
        with pytest.raises(ReplyTooLarge):
            reply.result()


async def test_an_endless_folded_header_is_refused():
    reply, _ = await receive(HEAD + b"X: a\r\n", *[b" b\r\n" * 50] * 400)
    with pytest.raises(BadReply, match="more than 65536 bytes of headers"):
        reply.result()


@pytest.mark.parametrize("head", [HEAD, b"HTTP/1.1 103 Hints\r\n"])
@pytest.mark.parametrize("fields", [LENGTH, CHUNKED, b""])
@pytest.mark.parametrize("long_fields", [b"X: %b\r\n" % (b"a" * 65_536), b"X: a\r\n b\r\n" * 9_000])
async def test_the_size_of_a_head_is_limited_even_if_the_answer_is_one_segment(
    head, fields, long_fields
):
    data = answer(fields + long_fields, CHUNKS if fields == CHUNKED else b"ok", head)
    reply, _ = await receive(data + answer(LENGTH))
    with pytest.raises(BadReply, match="more than 65536 bytes of headers"):
        reply.result()


async def test_endless_interim_answers_with_folded_headers_are_refused():
    hint = answer(b"X: a\r\n b\r\n", b"", b"HTTP/1.1 103 Hints\r\n")
    for segments in ([hint * 3_000], [hint] * 3_000):
        reply, _ = await receive(*segments)
        with pytest.raises(BadReply, match="more than 8 heads with folded headers"):
            reply.result()
