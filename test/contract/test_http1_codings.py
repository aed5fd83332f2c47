"""Compressed answers, which servers may send although the request accepts no content coding."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import random
import tracemalloc
import zlib

import pytest
from test_http1_answers import CHUNKED, answer

from fractal_rm.adapters.http1.coding import MAX_INPUT_BYTES, MAX_OUTPUT_BYTES, encoded_reply
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.call_errors import BadReply, CallTimedOut, ReplyTooLarge
from scripted_server import calling, serving, to


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def encoded_answer(coding: str, body: bytes) -> bytes:
    return answer(f"Content-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n".encode(), body)


async def call_with_answer(*script, **limits):
    async with serving(list(script)) as server, calling() as caller:
        return await caller.call(to(server, **limits))


TEXT = b'{"temperature": 21.5}' * 50
GZIP = gzip.compress(TEXT, mtime=0)  # mtime=0: the same bytes in every test process


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
async def test_an_encoded_body_is_decoded_even_if_its_head_is_known(coding, body):
    script = [encoded_answer(coding, body)]
    async with serving(*[script] * 4) as server, calling() as caller:
        for _ in range(4):
            assert (await caller.call(to(server))).body == TEXT
        assert server.connections == 1


async def test_an_encoded_body_without_a_length_is_decoded():
    body = gzip.compress(b"ok")
    fields = b"Content-Encoding: gzip\r\n"
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    assert (await call_with_answer(answer(fields + CHUNKED, chunks))).body == b"ok"
    assert (await call_with_answer(answer(fields, body), None)).body == b"ok"


async def test_an_empty_body_is_not_decoded():
    reply = await call_with_answer(encoded_answer("gzip", b""))
    assert reply.body == b""


@pytest.mark.parametrize(
    ("coding", "body", "error"),
    [
        ("br", b"ok", "content coding 'br' was not requested"),
        ("gzip, gzip", b"ok", "content coding 'gzip, gzip' was not requested"),
        ("gzip\r\nContent-Encoding: br", b"ok", "content coding 'gzip, br' was not requested"),
        ("gzip", b"ok", "the body of the answer is not gzip: "),
        ("gzip", GZIP[:-1], "the body of the answer is not gzip: it is truncated"),
        ("gzip", GZIP[:20], "the body of the answer is not gzip: it is truncated"),
        ("gzip", GZIP + b"more", "the body of the answer is not gzip: "),
        ("gzip", GZIP[:-8] + b"12345678", "the body of the answer is not gzip: "),
        ("gzip", gzip.compress(b"", mtime=0) * 10_001,
         "the body of the answer is not gzip: it has more than 10000 members"),
        ("deflate", b"\xff" * 9, "the body of the answer is not deflate: "),
        ("deflate", zlib.compress(TEXT)[:-1],
         "the body of the answer is not deflate: it is truncated"),
        ("deflate", raw_deflate(TEXT)[:-1],
         "the body of the answer is not deflate: it is truncated"),
        ("deflate", zlib.compress(TEXT) + b"x",
         "the body of the answer is not deflate: there is data after its end"),
    ],
    ids=itertools.count(),
)  # fmt: skip
async def test_a_body_that_cannot_be_decoded_is_a_bad_reply(coding, body, error):
    with pytest.raises(BadReply) as caught:
        await call_with_answer(encoded_answer(coding, body))
    assert caught.value.reason.startswith(error)


@pytest.mark.parametrize("status", [b"404 Not Found", b"308 Moved", b"503 Busy"])
@pytest.mark.parametrize(
    ("coding", "body"), [("br", b"\x0b\x02\x80busy"), ("gzip", b"busy"), ("gzip", GZIP)]
)
async def test_an_answer_with_an_error_status_has_its_undecoded_body(status, coding, body):
    data = encoded_answer(coding, body).replace(b"200 OK", status)
    reply = await call_with_answer(data, max_response_bytes=len(GZIP))
    assert (reply.status, reply.body) == (int(status[:3]), body)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, raw_deflate])
async def test_a_decoded_body_may_have_the_maximum_size_and_not_one_byte_more(pack):
    coding = "gzip" if pack is gzip.compress else "deflate"
    size = 3 << 20
    body = encoded_answer(coding, pack(bytes(size)))
    assert (await call_with_answer(body, max_response_bytes=size)).body == bytes(size)
    with pytest.raises(ReplyTooLarge, match="when decoded"):
        await call_with_answer(body, max_response_bytes=size - 1)


async def test_decoding_a_gzip_bomb_stops_before_it_fills_the_memory():
    bomb = encoded_answer("gzip", gzip.compress(bytes(48 << 20), 1))
    async with serving([bomb]) as server, calling() as caller:
        tracemalloc.start()
        try:
            with pytest.raises(ReplyTooLarge):
                await caller.call(to(server))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 20 << 20


async def test_decoding_stops_at_the_time_limit_of_the_call():
    loop = asyncio.get_running_loop()
    encoded = encoded_reply(HttpResponse(200, b"Content-Encoding: gzip\r\n", GZIP))
    with pytest.raises(CallTimedOut):
        await encoded.decode(1 << 20, loop, loop.time() - 1)


@pytest.mark.parametrize(
    ("body", "slices"),
    [
        (gzip.compress(bytes(8 << 20)), (8 << 20) // MAX_OUTPUT_BYTES),
        (gzip.compress(random.Random(7).randbytes(1 << 20)), (1 << 20) // MAX_INPUT_BYTES),
        (gzip.compress(b"") * 1_000, 1_000),
    ],
    ids=itertools.count(),
)
async def test_other_tasks_run_while_a_body_is_decoded(body, slices):
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    loop = asyncio.get_running_loop()
    counting = asyncio.ensure_future(count())
    encoded = encoded_reply(HttpResponse(200, b"Content-Encoding: gzip\r\n", body))
    decoded = await encoded.decode(8 << 20, loop, loop.time() + 60)
    counting.cancel()
    assert decoded.body == gzip.decompress(body)
    assert turns >= slices - 1
