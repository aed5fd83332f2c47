"""What an answer's framing and codings come to (RFC 9112), wherever its segments begin and end."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import random
import ssl
import tracemalloc
import zlib

import pytest
from test_http1 import calling, serving, to

from fractal_rm.adapters.http1.coding import GIVEN_BYTES, TAKEN_BYTES, packed_in
from fractal_rm.adapters.http1.connection import Connection
from fractal_rm.adapters.http1.heads import Heads
from fractal_rm.adapters.http1.outbox import Outbox
from fractal_rm.domain.call import Reply
from fractal_rm.domain.call_errors import BadReply, CallTimedOut, ConnectFailed, ReplyTooLarge

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKS = b"2\r\nok\r\n0\r\n\r\n"
LENGTH, CHUNKED = b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n"


def answer(fields: bytes, body: bytes = b"ok", head: bytes = HEAD) -> bytes:
    return head + fields + b"\r\n" + body


# What comes, its body, and whether the connection is kept after it.
TAKEN = {
    "a length": (answer(LENGTH), b"ok", True),
    "chunks": (answer(CHUNKED, CHUNKS), b"ok", True),
    "a length in front of chunks": (answer(LENGTH + CHUNKED, CHUNKS), b"ok", False),
    "a length behind chunks": (answer(CHUNKED + b"Content-Length: 99\r\n", CHUNKS), b"ok", False),
    "a length over the bound beside chunks":
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
    "folds in an interim answer too":
        (answer(b"X: a\r\n b\r\n", b"", b"HTTP/1.1 103 Hints\r\n")
         + answer(b"X: a\r\n b\r\n" + LENGTH), b"ok", True),
    "a body that looks folded": (answer(b"Content-Length: 4\r\n", b"\r\n a"), b"\r\n a", True),
    "nothing with a 204": (answer(b"", b"", b"HTTP/1.1 204 No Content\r\n"), b"", True),
    "a length with a 204": (answer(LENGTH, b"", b"HTTP/1.1 204 No Content\r\n"), b"", False),
    "chunks with a 204": (answer(CHUNKED, b"", b"HTTP/1.1 204 No Content\r\n"), b"", False),
    "a length with a 304": (answer(LENGTH, b"", b"HTTP/1.1 304 Not Modified\r\n"), b"", True),
    "no reason": (answer(LENGTH, b"ok", b"HTTP/1.1 200\r\n"), b"ok", True),
    "a body in no coding": (answer(b"Content-Encoding: identity\r\n" + LENGTH), b"ok", True),
}  # fmt: skip
NOT_HTTP = "the answer is not HTTP/1.1: "
# What comes, and what is said about it.
REFUSED = {
    "two lengths": (answer(LENGTH + LENGTH), NOT_HTTP + "Duplicate Content-Length"),
    "a list of lengths": (answer(b"Content-Length: 2, 2\r\n"), NOT_HTTP),
    "two lengths in a folded line": (answer(b"Content-Length: 2\r\n 2\r\n"), NOT_HTTP),
    "a length with a sign": (answer(b"Content-Length: +2\r\n"), NOT_HTTP),
    "a length that is empty": (answer(b"Content-Length: \r\n"), NOT_HTTP),
    "another transfer coding": (answer(b"Transfer-Encoding: gzip, chunked\r\n", CHUNKS),
                                "transfer coding 'gzip, chunked' was not asked for"),
    "chunks in the middle": (answer(b"Transfer-Encoding: chunked, gzip\r\n", CHUNKS),
                             "transfer coding 'chunked, gzip' was not asked for"),
    "chunks and another in two lines": (answer(CHUNKED + b"Transfer-Encoding: identity\r\n", b"ok"),
                                        "transfer coding 'chunked, identity' was not asked for"),
    "chunks and nothing":
        (answer(b"Transfer-Encoding: chunked,\r\n", CHUNKS),
         "transfer coding 'chunked, ' was not asked for"),
    "nothing and chunks":
        (answer(b"Transfer-Encoding: , chunked\r\n", CHUNKS),
         "transfer coding ', chunked' was not asked for"),
    "another transfer coding in a folded head":
        (answer(b"Transfer-Encoding: gzip,\r\n chunked\r\n", CHUNKS),
         "transfer coding 'gzip, chunked' was not asked for"),
    "a folded head of no status":
        (answer(b"X: a\r\n b\r\n" + LENGTH, b"ok", b"HTTP/1.1 099 Odd\r\n"),
         "there is no status 099"),
    "chunks twice": (answer(CHUNKED + CHUNKED, CHUNKS),
                     "transfer coding 'chunked, chunked' was not asked for"),
    "another coding beside a length": (answer(LENGTH + b"Transfer-Encoding: identity\r\n"),
                                       "transfer coding 'identity' was not asked for"),
    "a space before the colon": (answer(b"Content-Length : 2\r\n"), NOT_HTTP),
    "a space before the first header": (answer(b" X: a\r\n" + LENGTH), NOT_HTTP),
    "lines without CR": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", NOT_HTTP),
    "a line without CR": (answer(b"X: a\n" + LENGTH), NOT_HTTP),
    "a CR within a header": (answer(b"X: a\rb\r\n" + LENGTH), NOT_HTTP),
    "a NUL within a header": (answer(b"X: a\0b\r\n" + LENGTH), NOT_HTTP),
    "a folded trailer": (answer(CHUNKED, b"2\r\nok\r\n0\r\nX: a\r\n b\r\n\r\n"), NOT_HTTP),
    "a chunk with a sign": (answer(CHUNKED, b"+2\r\nok\r\n0\r\n\r\n"), NOT_HTTP),
    "a chunk in hexadecimal of C": (answer(CHUNKED, b"0x2\r\nok\r\n0\r\n\r\n"), NOT_HTTP),
    "a chunk that is longer": (answer(CHUNKED, b"2\r\nokay\r\n0\r\n\r\n"), NOT_HTTP),
    "a status below 100":
        (answer(LENGTH, b"ok", b"HTTP/1.1 099 Odd\r\n"), "there is no status 099"),
    "a status of two digits": (answer(LENGTH, b"ok", b"HTTP/1.1 20 OK\r\n"), NOT_HTTP),
}  # fmt: skip


class Transport(asyncio.Transport):
    """Takes what is written, and closes when it is told to."""

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


async def fed(*segments: bytes, heads: Heads | None = None):
    """What a connection makes of the segments of an answer, and whether it is kept."""
    idle: list[Connection] = []
    connection = Connection(idle.append, lambda _: None, Outbox(), heads or Heads())
    transport = Transport()
    connection.connection_made(transport)
    loop = asyncio.get_running_loop()
    reply = connection.ask(b"", loop, loop.time() + 60, 1_000)
    for segment in segments:
        if not reply.done():
            connection.data_received(segment)
    kept = bool(idle) and not transport.closed
    connection.connection_lost(None)
    return reply, kept


def splits(data: bytes):
    """In one segment, in two at every place, and byte for byte."""
    yield (data,)
    yield from ((data[:at], data[at:]) for at in range(1, len(data)))
    yield tuple(data[at : at + 1] for at in range(len(data)))


@pytest.mark.parametrize("what", TAKEN)
async def test_an_answer_is_the_same_wherever_its_segments_end(what):
    data, body, kept = TAKEN[what]
    for segments in splits(data):
        reply, was_kept = await fed(*segments)
        assert (reply.result().body, was_kept) == (body, kept), segments


@pytest.mark.parametrize("what", REFUSED)
async def test_what_is_refused_is_refused_wherever_its_segments_end(what):
    data, said = REFUSED[what]
    for segments in splits(data):
        reply, was_kept = await fed(*segments)
        with pytest.raises(BadReply) as caught:
            reply.result()
        assert caught.value.reason.startswith(said), segments
        assert caught.value.sent
        assert not was_kept


@pytest.mark.parametrize("what", TAKEN)
async def test_a_known_head_changes_nothing(what):
    data, body, kept = TAKEN[what]
    heads = Heads()
    for _ in range(4):
        reply, was_kept = await fed(data, heads=heads)
        assert (reply.result().body, was_kept) == (body, kept)
    reply, was_kept = await fed(data + b"HTTP/1.1 200 OK\r\n", heads=heads)
    assert (reply.result().body, was_kept) == (body, False)


@pytest.mark.parametrize("what", TAKEN)
async def test_what_follows_an_answer_is_no_answer_to_the_next_call(what):
    data, body, _ = TAKEN[what]
    bad = answer(LENGTH, b"!!")
    async with serving([data, bad], [data, 0.05, bad]) as server, calling() as caller:
        for _ in range(2):
            assert (await caller.call(to(server))).body == body
            await server.closed.wait()
            server.closed.clear()
        assert (await caller.call(to(server))).body == b"ok"
        assert server.connections == 3


async def test_the_reason_of_an_answer_that_was_cut_off_has_its_status():
    reply, _ = await fed(answer(b"Content-Length: 9\r\n", b"bu", b"HTTP/1.1 503 Busy\r\n"))
    with pytest.raises(BadReply, match=r"closed before the answer was whole \(status 503\)"):
        reply.result()


@pytest.mark.parametrize("when", ["before", "closing", "meanwhile"])
async def test_a_request_that_the_server_closed_before_was_not_sent(when):
    connection = Connection(lambda _: None, lambda _: None, Outbox(), Heads())
    transport, loop = Transport(), asyncio.get_running_loop()
    connection.connection_made(transport)
    error = ssl.SSLError(1, "alert")
    error.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    if when == "before":
        connection.connection_lost(error)
    transport.closed = True
    reply = connection.ask(b"GET", loop, loop.time() + 60, 1_000)
    if when == "closing":
        await asyncio.sleep(0)
    if when != "before":
        connection.connection_lost(error)
    with pytest.raises(ConnectFailed, match="was sent: TLS was refused: it asks for"):
        await reply


async def test_what_was_sent_to_a_server_that_refuses_our_certificate_was_not_read():
    connection = Connection(lambda _: None, lambda _: None, Outbox(), Heads())
    connection.connection_made(Transport())
    loop = asyncio.get_running_loop()
    reply = connection.ask(b"POST", loop, loop.time() + 60, 1_000)
    await asyncio.sleep(0)  # it is sent
    error = ssl.SSLError(1, "alert")
    error.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    connection.connection_lost(error)
    with pytest.raises(ConnectFailed, match="TLS was refused: it asks for a certificate"):
        await reply


async def test_a_folded_header_is_one_line():
    reply, _ = await fed(answer(b"ETag: a\r\n\t b\r\nX:\r\n c\r\n" + LENGTH))
    assert reply.result().header("etag") == "a b"
    assert reply.result().header("x") == "c"


async def test_a_body_after_a_folded_header_is_bounded():
    for length in (b"Content-Length: 1001\r\n", b""):
        reply, _ = await fed(answer(b"X: a\r\n b\r\n" + length, b"x" * 1_001))
        with pytest.raises(ReplyTooLarge):
            reply.result()


async def test_a_folded_header_without_an_end_is_bounded():
    reply, _ = await fed(HEAD + b"X: a\r\n", *[b" b\r\n" * 50] * 400)
    with pytest.raises(BadReply, match="more than 65536 bytes of headers"):
        reply.result()


@pytest.mark.parametrize("head", [HEAD, b"HTTP/1.1 103 Hints\r\n"])
@pytest.mark.parametrize("fields", [LENGTH, CHUNKED, b""])
@pytest.mark.parametrize("many", [b"X: %b\r\n" % (b"a" * 65_536), b"X: a\r\n b\r\n" * 9_000])
async def test_a_head_is_bounded_also_where_the_whole_answer_comes_at_once(head, fields, many):
    data = answer(fields + many, CHUNKS if fields == CHUNKED else b"ok", head)
    reply, _ = await fed(data + answer(LENGTH))
    with pytest.raises(BadReply, match="more than 65536 bytes of headers"):
        reply.result()


async def test_folded_interim_answers_without_an_end_are_bounded():
    hint = answer(b"X: a\r\n b\r\n", b"", b"HTTP/1.1 103 Hints\r\n")
    for segments in ([hint * 3_000], [hint] * 3_000):
        reply, _ = await fed(*segments)
        with pytest.raises(BadReply, match="more than 8 heads with folded headers"):
            reply.result()


# --- content codings ----------------------------------------------------------------------------


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def packed(coding: str, body: bytes) -> bytes:
    return answer(f"Content-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n".encode(), body)


async def call(*script, **limits):
    async with serving(list(script)) as server, calling() as caller:
        return await caller.call(to(server, **limits))


TEXT = b'{"temperature": 21.5}' * 50
GZIP = gzip.compress(TEXT, mtime=0)  # as each process that runs tests makes it


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", GZIP),
        ("GZip", GZIP),
        ("x-gzip", GZIP),
        ("identity, gzip", GZIP),
        ("gzip", gzip.compress(TEXT[:100], mtime=0) + gzip.compress(TEXT[100:], mtime=0)),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", raw_deflate(TEXT)),
        ("identity", TEXT),
        ("UTF-8", TEXT),
    ],
)
async def test_a_body_that_is_packed_is_unpacked_each_time(coding, body):
    script = [packed(coding, body)]
    async with serving(*[script] * 4) as server, calling() as caller:
        for _ in range(4):
            assert (await caller.call(to(server))).body == TEXT
        assert server.connections == 1


async def test_a_body_in_chunks_and_one_that_ends_with_its_connection_are_unpacked():
    body = gzip.compress(b"ok")
    fields = b"Content-Encoding: gzip\r\n"
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    assert (await call(answer(fields + CHUNKED, chunks))).body == b"ok"
    assert (await call(answer(fields, body), None)).body == b"ok"


async def test_nothing_is_unpacked_where_nothing_came():
    reply = await call(packed("gzip", b""))
    assert reply.body == b""


@pytest.mark.parametrize(
    ("coding", "body", "said"),
    [
        ("br", b"ok", "content coding 'br' was not asked for"),
        ("gzip, gzip", b"ok", "content coding 'gzip, gzip' was not asked for"),
        ("gzip\r\nContent-Encoding: br", b"ok", "content coding 'gzip, br' was not asked for"),
        ("gzip", b"ok", "the body of the answer is not gzip: "),
        ("gzip", GZIP[:-1], "the body of the answer is not gzip: it ends early"),
        ("gzip", GZIP[:20], "the body of the answer is not gzip: it ends early"),
        ("gzip", GZIP + b"more", "the body of the answer is not gzip: "),
        ("gzip", GZIP[:-8] + b"12345678", "the body of the answer is not gzip: "),
        ("gzip", gzip.compress(b"", mtime=0) * 10_001,
         "the body of the answer is not gzip: it has more than 10000 parts"),
        ("deflate", b"\xff" * 9, "the body of the answer is not deflate: "),
        ("deflate", zlib.compress(TEXT)[:-1],
         "the body of the answer is not deflate: it ends early"),
        ("deflate", raw_deflate(TEXT)[:-1], "the body of the answer is not deflate: it ends early"),
        ("deflate", zlib.compress(TEXT) + b"x",
         "the body of the answer is not deflate: something follows its end"),
    ],
    ids=itertools.count(),
)  # fmt: skip
async def test_a_coding_that_cannot_be_unpacked_is_said(coding, body, said):
    with pytest.raises(BadReply) as caught:
        await call(packed(coding, body))
    assert caught.value.reason.startswith(said)


@pytest.mark.parametrize("status", [b"404 Not Found", b"308 Moved", b"503 Busy"])
@pytest.mark.parametrize(
    ("coding", "body"), [("br", b"\x0b\x02\x80busy"), ("gzip", b"busy"), ("gzip", GZIP)]
)
async def test_a_status_that_is_no_success_counts_whatever_its_body_is(status, coding, body):
    data = packed(coding, body).replace(b"200 OK", status)
    reply = await call(data, max_response_bytes=len(GZIP))
    assert (reply.status, reply.body) == (int(status[:3]), body)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, raw_deflate])
async def test_what_unpacks_to_as_much_as_is_taken_is_taken_and_one_byte_more_is_not(pack):
    coding = "gzip" if pack is gzip.compress else "deflate"
    size = 3 << 20
    body = packed(coding, pack(bytes(size)))
    assert (await call(body, max_response_bytes=size)).body == bytes(size)
    with pytest.raises(ReplyTooLarge, match="when unpacked"):
        await call(body, max_response_bytes=size - 1)


async def test_a_bomb_is_given_up_before_it_fills_the_memory():
    bomb = packed("gzip", gzip.compress(bytes(48 << 20), 1))
    async with serving([bomb]) as server, calling() as caller:
        tracemalloc.start()
        try:
            with pytest.raises(ReplyTooLarge):
                await caller.call(to(server))
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert most < 20 << 20


async def test_unpacking_ends_with_the_time_of_its_call():
    loop = asyncio.get_running_loop()
    packed = packed_in(Reply(200, b"Content-Encoding: gzip\r\n", GZIP))
    with pytest.raises(CallTimedOut):
        await packed.unpacked(1 << 20, loop, loop.time() - 1)


@pytest.mark.parametrize(
    ("body", "slices"),
    [
        (gzip.compress(bytes(8 << 20)), (8 << 20) // GIVEN_BYTES),
        (gzip.compress(random.Random(7).randbytes(1 << 20)), (1 << 20) // TAKEN_BYTES),
        (gzip.compress(b"") * 1_000, 1_000),
    ],
    ids=itertools.count(),
)
async def test_others_go_on_while_a_body_is_unpacked(body, slices):
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    loop = asyncio.get_running_loop()
    counting = asyncio.ensure_future(count())
    packed = packed_in(Reply(200, b"Content-Encoding: gzip\r\n", body))
    found = await packed.unpacked(8 << 20, loop, loop.time() + 60)
    counting.cancel()
    assert found.body == gzip.decompress(body)
    assert turns >= slices - 1
