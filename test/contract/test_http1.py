"""HTTP/1.1 calls to correct servers: bodies, reused connections, cached heads."""

from __future__ import annotations

import asyncio
import socket
import threading

import aiohttp
import aiohttp.web
import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fractal_rm.domain.call import Origin, route
from fractal_rm.domain.call_errors import BadReply, ConnectFailed, ReplyTooLarge
from ports import free_port, port_of
from scripted_server import CHUNKED, DIE, HINTS, OK, RESET, call_with_answer, calling, serving, to

# --- correct answers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "status", "body"),
    [
        ([OK], 200, b"ok"),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], 204, b""),
        ([b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"], 304, b""),
        ([CHUNKED + b"2;x=y\r\nok\r\n0\r\n\r\n"], 200, b"ok"),
        ([CHUNKED + b"1\r\no\r\n1\r\nk\r\n0\r\nT: x\r\n\r\n"], 200, b"ok"),
        ([CHUNKED, *[part for _ in range(30_000) for part in (b"1\r\n", b"x", b"\r\n")],
          b"0\r\n\r\n"], 200, b"x" * 30_000),
        ([b"HTTP/1.1 200 OK\r\n\r\nuntil the end", None], 200, b"until the end"),
        ([b"HTTP/1.0 200 OK\r\n\r\nold", None], 200, b"old"),
        ([HINTS + OK], 200, b"ok"),
        ([b"HTTP/1.1 301 Moved\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"], 301, b""),
        ([b"HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\nlate"], 500, b"late"),
        ([*(OK[n : n + 1] for n in range(len(OK)))], 200, b"ok"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"], 200, b""),
    ],
)  # fmt: skip
async def test_a_body_is_read_completely_in_every_form_that_http_allows(script, status, body):
    reply = await call_with_answer(*script)
    assert (reply.status, reply.body) == (status, body)


async def test_the_request_has_the_headers_that_http_requires():
    async with serving() as server, calling() as caller:
        post = to(server, "POST", headers=(("Host", "camera.local"), ("X-Key", "s")))
        await caller.call(post, b'{"a": 1}', b"Idempotency-Key: run:1\r\n")
        await caller.call(to(server))
    first, second = server.requests
    assert first == (
        b"POST /x HTTP/1.1\r\nUser-Agent: fractal-rm\r\nAccept: */*\r\n"
        b"Accept-Encoding: identity\r\nContent-Type: application/json\r\n"
        b"Host: camera.local\r\nX-Key: s\r\n"
        b'Idempotency-Key: run:1\r\nContent-Length: 8\r\n\r\n{"a": 1}'
    )
    assert b"Host: 127.0.0.1:%d\r\n" % server.port in second
    assert b"Content-Length" not in second


async def test_idle_connections_are_kept_and_used_for_later_calls():
    async with serving() as server, calling() as caller:
        for _ in range(5):
            await caller.call(to(server))
        assert server.connections == 1
        await asyncio.gather(*(caller.call(to(server)) for _ in range(5)))
        assert server.connections == 5


async def test_a_connection_is_not_used_after_an_answer_with_connection_close():
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    async with serving([closing, 0.0], [OK]) as server, calling() as caller:
        await caller.call(to(server))
        await caller.call(to(server))
        assert server.connections == 2


@pytest.mark.parametrize("end", [None, RESET])
async def test_a_repeatable_call_is_sent_again_if_the_server_had_closed_the_kept_connection(end):
    async with serving([OK], [end], [OK]) as server, calling() as caller:
        await caller.call(to(server))
        reply = await caller.call(to(server))
        assert reply.body == b"ok"
        assert server.connections == 2


async def test_a_call_that_must_not_be_repeated_uses_a_new_connection():
    async with serving([OK], [None]) as server, calling() as caller:
        await caller.call(to(server))
        with pytest.raises(BadReply) as caught:
            await caller.call(to(server, repeatable=False))
        assert caught.value.sent
        assert len(server.requests) == 2


async def test_a_call_with_a_partial_answer_is_not_repeated():
    async with serving([OK], [b"HTTP/1.1 200", None]) as server, calling() as caller:
        await caller.call(to(server))
        with pytest.raises(BadReply):
            await caller.call(to(server))
        assert len(server.requests) == 2


def closing_answer(status):
    """An answer after which the server closes the connection."""
    return b"HTTP/1.1 %d No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % status


@pytest.mark.parametrize("script", [
    [closing_answer(408), None],
    [b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\nbye", None],
    [b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 9\r\n\r\ncut", None],
])  # fmt: skip
async def test_a_408_that_ends_a_kept_connection_is_not_an_answer_and_the_call_is_repeated(script):
    async with serving([OK], script, [OK]) as server, calling() as caller:
        await caller.call(to(server))
        assert (await caller.call(to(server))).body == b"ok"
        assert server.connections == 2


@pytest.mark.parametrize("on_kept_connection", [False, True])
@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 408", closing_answer(408)[:-4], closing_answer(408)[:-2]]
)
async def test_a_408_with_an_incomplete_head_is_a_bad_reply(head, on_kept_connection):
    script = [head, None]
    async with serving(*[[OK]] * on_kept_connection, script, [OK]) as server, calling() as caller:
        if on_kept_connection:
            await caller.call(to(server))
        with pytest.raises(BadReply) as caught:
            await caller.call(to(server))
        assert str(caught.value) == "the connection was closed before the answer was complete"
        assert len(server.requests) == 1 + on_kept_connection


async def test_a_408_is_an_answer_on_a_new_connection_or_if_the_connection_stays_open():
    staying = b"HTTP/1.1 408 Slow\r\nContent-Length: 0\r\n\r\n"
    async with serving([closing_answer(408), None]) as server, calling() as caller:
        assert (await caller.call(to(server))).status == 408
    async with serving([OK], [staying]) as server, calling() as caller:
        assert [(await caller.call(to(server))).status for _ in range(2)] == [200, 408]
    async with serving([OK], [closing_answer(408), None]) as server, calling() as caller:
        await caller.call(to(server))
        assert (await caller.call(to(server, repeatable=False))).status == 408
        assert len(server.requests) == 2


@pytest.mark.parametrize("status", [200, 400, 503])
async def test_a_status_other_than_408_is_an_answer_even_if_it_ends_a_kept_connection(status):
    async with serving([OK], [closing_answer(status), None]) as server, calling() as caller:
        await caller.call(to(server))
        assert (await caller.call(to(server))).status == status
        assert len(server.requests) == 2


async def test_a_request_may_have_been_read_if_its_kept_connection_ended_and_there_is_no_new_one():
    async with serving([OK], [DIE]) as server, calling() as caller:
        await caller.call(to(server))
        with pytest.raises(ConnectFailed, match="refused") as caught:
            await caller.call(to(server))
        assert caught.value.sent
        assert len(server.requests) == 2
        with pytest.raises(ConnectFailed) as caught:
            await caller.call(to(server))
        assert not caught.value.sent


async def _error_crosses_request(status):
    """A server sends an error on a kept connection, and closes it. Then the client sends a request.

    The client has not read the error when it sends the request.
    """
    error_sent, may_send = threading.Event(), threading.Event()

    def serve(listener):
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(OK)
                if not error_sent.is_set():
                    may_send.wait(30)
                    connection.sendall(closing_answer(status))
            error_sent.set()

    with socket.create_server(("127.0.0.1", free_port())) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        get_x = route(Origin("http", "127.0.0.1", port_of(listener)), "GET", "/x")
        async with calling() as caller:
            await caller.call(get_x)
            may_send.set()
            assert error_sent.wait(
                30
            )  # blocks the event loop, so that the client does not read the error
            assert (await caller.call(get_x)).body == b"ok"
        thread.join(30)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("status", [400, 408, 503])
def test_an_error_that_a_server_sent_before_a_request_is_not_the_answer_to_it(run, status):
    run(_error_crosses_request(status))


# --- known heads --------------------------------------------------------------------------------
# A head that was received several times is called known. It is not parsed again.

HEAD = b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\n"
THREE_TIMES = [[HEAD + b"one"]] * 3


@pytest.mark.parametrize(
    "script",
    [
        [HEAD + b"two"],
        [HEAD, b"two"],
        [HEAD + b"t", b"wo"],
        [HEAD[:-2], HEAD[-2:] + b"two"],
        [HINTS + HEAD + b"two"],
        [HEAD + b"two" + HEAD + b"two"],
    ],
)
async def test_an_answer_with_a_known_head_may_arrive_in_parts_of_any_size(script):
    async with serving(*THREE_TIMES, script, [OK]) as server, calling() as caller:
        for body in (b"one", b"one", b"one", b"two"):
            reply = await caller.call(to(server))
            assert (reply.status, reply.body) == (404, body)
            assert reply.header("content-length") == "3"
        assert (await caller.call(to(server))).body == b"ok"


@pytest.mark.parametrize("script", [[HEAD, None], [HEAD + b"tw", None], [HEAD + b"tw", RESET]])
async def test_an_answer_with_a_known_head_and_half_a_body_is_a_bad_reply(script):
    async with serving(*THREE_TIMES, script) as server, calling() as caller:
        for _ in THREE_TIMES:
            await caller.call(to(server))
        with pytest.raises(BadReply) as caught:
            await caller.call(to(server))
        assert caught.value.sent


async def test_an_answer_with_a_known_head_is_still_limited_by_max_response_bytes():
    async with serving(*THREE_TIMES, *THREE_TIMES) as server, calling() as caller:
        for _ in THREE_TIMES:
            await caller.call(to(server))
        with pytest.raises(ReplyTooLarge):
            await caller.call(to(server, max_response_bytes=2))


async def test_an_answer_with_connection_close_ends_its_connection_even_if_its_head_is_known():
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    async with serving(*[[closing, 0.0]] * 4) as server, calling() as caller:
        for _ in range(4):
            await caller.call(to(server))
        assert server.connections == 4


# --- compared with another client ---------------------------------------------------------------

_bodies = st.binary(max_size=5_000)


@st.composite
def exchanges(draw):
    """A server script with a valid answer, which has any kind of body and is cut into parts."""
    status = draw(st.sampled_from([200, 201, 202, 302, 400, 404, 418, 500, 503]))
    body = draw(_bodies)
    form = draw(st.sampled_from(["length", "chunked", "close"]))
    interim = draw(st.lists(st.sampled_from([100, 102, 103]), max_size=2))
    lines = [f"HTTP/1.1 {status} Something"]
    values = draw(st.lists(st.sampled_from(["a", "b c", ""]), max_size=3))
    lines += [f"X-Header-{n}: {value}" for n, value in enumerate(values)]
    if form == "length":
        lines.append(f"Content-Length: {len(body)}")
        framed_body = body
    elif form == "chunked":
        lines.append("Transfer-Encoding: chunked")
        framed_body, at = b"", 0
        while at < len(body):
            size = draw(st.integers(1, len(body) - at))
            framed_body += b"%x\r\n%b\r\n" % (size, body[at : at + size])
            at += size
        framed_body += b"0\r\n\r\n"
    else:
        framed_body = body
    head = "".join(f"HTTP/1.1 {code} Wait\r\n\r\n" for code in interim)
    whole = (head + "\r\n".join(lines) + "\r\n\r\n").encode() + framed_body
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    return [*(part for part in parts if part), *([None] if form == "close" else [])]


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.lists(exchanges(), min_size=1, max_size=4))
def test_random_answers_are_read_as_aiohttp_reads_them_even_with_known_heads(scripts):
    async def compare():
        repeated = [script for script in scripts for _ in range(3)]
        async with serving(*scripts, *repeated) as server, calling() as caller:
            url = f"http://127.0.0.1:{server.port}/x"
            async with aiohttp.ClientSession(auto_decompress=False) as session:
                by_aiohttp = []
                for _ in scripts:
                    async with session.get(url, allow_redirects=False) as reply:
                        by_aiohttp.append((reply.status, await reply.read()))
            replies = [await caller.call(to(server)) for _ in repeated]
            assert [(reply.status, reply.body) for reply in replies] == [
                status_and_body for status_and_body in by_aiohttp for _ in range(3)
            ]

    asyncio.run(compare())
