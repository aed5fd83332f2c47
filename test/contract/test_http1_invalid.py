"""HTTP/1.1 calls to servers whose answers are invalid, endless or late."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

from fractal_rm.domain.call import Origin, route
from fractal_rm.domain.call_errors import BadReply, CallTimedOut, ReplyTooLarge
from ports import free_port
from scripted_server import CHUNKED, OK, RESET, call_with_answer, calling, serving, to


@pytest.mark.parametrize(
    "script",
    [
        [b"SSH-2.0-OpenSSH_9.2\r\n"],
        [b"\x00\xff\x00\xff"],
        [b"<html>hello</html>"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", None],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok"],
        [b"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", None],
        [b"HTTP/1.1 200 OK\nContent-Length: 10\n\nshort", None],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\nshort", None],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok", None],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", None],
        [CHUNKED + b"zz\r\nok\r\n0\r\n\r\n"],
        [CHUNKED + b"2\r\nok\r\n", None],
        [CHUNKED + b"2\r\nokay\r\n0\r\n\r\n"],
        [b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000],
        [b"HTTP/1.1 200 OK\r\n", *[b"X-%d: y\r\n" % n for n in range(9_000)]],
        [*[b"HTTP/1.1 100 Continue\r\n\r\n" for _ in range(4_000)]],
        [CHUNKED, b"2\r\nok\r\n0\r\n", *[b"X: %b\r\n" % (b"a" * 4_000)] * 500, b"\r\n"],
        [CHUNKED, b"2\r\nok\r\n0\r\nX: ", *[b"a" * 4_000] * 500, b"\r\n\r\n"],
        [CHUNKED, b"2;x=", *[b"a" * 4_000] * 500, b"\r\nok\r\n0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nBad\0Name: x\r\n\r\n", None],
        [None],
        [RESET],
        [b"HTTP/1.1 200 OK\r\nContent-Le", RESET],
    ],
)  # fmt: skip
async def test_an_answer_that_is_not_http_is_a_bad_reply(script):
    with pytest.raises(BadReply) as caught:
        await call_with_answer(*script)
    assert caught.value.sent


@pytest.mark.parametrize(
    "script",
    [
        [10.0],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", *[b"x", 0.05] * 99],
        [b"HTTP/1.1 200 OK\r\nX: ", *[b"y", 0.05] * 99],
        [b"HTTP/1.1 200 OK\r\n\r\n", *[b"x", 0.05] * 99],
    ],
)
async def test_the_time_limit_is_for_the_whole_call(script):
    with pytest.raises(CallTimedOut) as caught:
        await call_with_answer(*script, timeout_s=0.3)
    assert caught.value.sent


async def test_a_call_times_out_while_other_calls_keep_the_loop_busy():
    async with serving() as server, serving([3600.0]) as silent_server, calling() as caller:
        waiting = asyncio.ensure_future(caller.call(to(silent_server, timeout_s=0.3)))
        while not waiting.done():
            assert (await caller.call(to(server))).body == b"ok"
        with pytest.raises(CallTimedOut):
            await waiting


async def test_every_call_has_its_own_time_limit():
    async with serving(*[[3600.0]] * 3) as silent_server, calling() as caller:
        timed_out = []

        async def call(name, limit_s):
            with pytest.raises(CallTimedOut):
                await caller.call(to(silent_server, timeout_s=limit_s))
            timed_out.append(name)

        await asyncio.gather(call("last", 0.5), call("first", 0.3), call("second", 0.4))
        assert timed_out == ["first", "second", "last"]


@pytest.mark.parametrize("before_s", [30.0, 0.1])
async def test_calls_on_a_kept_connection_have_their_own_time_limits(before_s):
    async with serving([OK], [0.2, OK], [5.0]) as server, calling() as caller:
        await caller.call(to(server, timeout_s=before_s))
        await caller.call(to(server))  # takes 0.2 s, which may exceed the limit of the first call
        with pytest.raises(CallTimedOut):
            await caller.call(to(server, timeout_s=0.1))
        assert server.connections == 1


@pytest.mark.parametrize(
    "script",
    [
        [b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"],
        [CHUNKED, *[b"400\r\n%b\r\n" % (b"x" * 1024)] * 200],
        [b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 1024] * 200],
    ],
)  # fmt: skip
async def test_an_endless_answer_is_refused_at_the_size_limit(script):
    with pytest.raises(ReplyTooLarge):
        await call_with_answer(*script, max_response_bytes=100_000)


async def test_a_body_in_tiny_chunks_takes_little_memory():
    chunks = b"2\r\nok\r\n" * 2_000
    script = [CHUNKED, *[chunks] * 100, b"0\r\n\r\n"]
    tracemalloc.start()
    try:
        reply = await call_with_answer(*script)
        assert len(reply.body) == 400_000
        _, peak = tracemalloc.get_traced_memory()
        # With one object for each chunk, the caller would need 20 times as much.
        assert peak < 8 * len(reply.body)
    finally:
        tracemalloc.stop()


async def test_the_fields_of_a_trailer_are_not_headers():
    late = b"Transfer-Encoding: gzip\r\nContent-Type: text/plain; charset=latin-1\r\n\r\n"
    reply = await call_with_answer(CHUNKED + b"2\r\nok\r\n0\r\n" + late)
    assert reply.body == b"ok"
    assert reply.headers_by_name() == {"transfer-encoding": "chunked"}


async def test_after_a_second_answer_to_one_request_the_next_call_uses_a_new_connection():
    async with serving([OK + OK], [OK]) as server, calling() as caller:
        await caller.call(to(server))
        assert (await caller.call(to(server))).body == b"ok"
        assert server.connections == 2


async def test_half_of_a_second_answer_is_not_part_of_the_next_answer():
    async with serving([OK + b"HTTP/1.1 200 OK\r\nX-Sm"], [OK]) as server, calling() as caller:
        await caller.call(to(server))
        reply = await caller.call(to(server))
        assert reply.header("x-sm") is None
        assert server.connections == 2


async def test_the_answer_to_a_cancelled_call_does_not_go_to_the_next_call():
    slow = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow"
    async with serving([0.1, slow], [OK]) as server, calling() as caller:
        call = asyncio.ensure_future(caller.call(to(server)))
        while not server.requests:
            await asyncio.sleep(0)
        call.cancel()
        assert (await caller.call(to(server))).body == b"ok"


async def test_cancelling_an_answered_call_does_not_close_the_connection_of_the_next_call():
    accepted = asyncio.Queue()
    listening = await asyncio.start_server(
        lambda *streams: accepted.put_nowait(streams), "127.0.0.1", free_port()
    )
    get_x = route(Origin("http", *listening.sockets[0].getsockname()), "GET", "/x", timeout_s=30)
    async with calling() as caller:
        first = asyncio.ensure_future(caller.call(get_x))
        reader, writer = await accepted.get()
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await asyncio.sleep(0)  # in this turn, the loop reads the answer after it has run this task
        second = asyncio.ensure_future(caller.call(get_x))
        # At the next turn, the second call uses the connection, and the first has not returned yet.
        await asyncio.sleep(0)
        first.cancel()
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        assert (await second).body == b"ok"
        assert first.cancelled()
        assert accepted.empty()
        writer.close()
    listening.close()
