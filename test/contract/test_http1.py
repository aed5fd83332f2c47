"""Calls over HTTP/1.1 against servers that tell the truth, and against one that lies."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import subprocess
import threading
import tracemalloc
from contextlib import asynccontextmanager
from datetime import datetime, timezone

import aiohttp
import aiohttp.web
import pytest
import trustme
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_descriptors import descriptors_left

from demanding import demanding
from dns import SILENT, resolving
from fractal_rm.adapters.http1 import Http1Caller
from fractal_rm.domain.call import Origin, Route, Tls, header_line, route
from fractal_rm.domain.call_errors import (
    BadReply,
    CallFailed,
    CallTimedOut,
    ConnectFailed,
    ReplyTooLarge,
)
from keys import encrypted_key, weak_key
from machines import machine
from ports import free_port


class Server:
    """Answers with scripted bytes; each script is a list of chunks, None closes, a float waits."""

    def __init__(self):
        self.scripts = []
        self.requests = []
        self.connections = 0
        self.closed = asyncio.Event()

    async def handle(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                body = await reader.readexactly(length)
                self.requests.append(head + body)
                script = self.scripts.pop(0) if self.scripts else [OK]
                for part in script:
                    if part is None:
                        writer.close()
                        return
                    if part is RESET:
                        writer.transport.abort()
                        return
                    if isinstance(part, float):
                        await asyncio.sleep(part)
                    else:
                        writer.write(part)
                        await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.closed.set()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
RESET = object()
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HINTS = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"


@asynccontextmanager
async def serving(*scripts, tls=None):
    server = Server()
    server.scripts = list(scripts)
    listening = await asyncio.start_server(server.handle, "127.0.0.1", free_port(), ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


@asynccontextmanager
async def calling(names=None):
    caller = Http1Caller(names=names)
    try:
        yield caller
    finally:
        await caller.close()
        await caller.close()


def to(server, method="GET", *, protocol="http", host="127.0.0.1", tls=None, **limits):
    limits.setdefault("timeout_s", 30.0)
    return route(Origin(protocol, host, server.port, tls), method, "/x", **limits)


async def answer(*script, **limits):
    """What a call makes of one scripted answer."""
    async with serving(list(script)) as server, calling() as caller:
        return await caller.call(to(server, **limits))


# --- well-formed ------------------------------------------------------------------------------


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
async def test_every_form_of_body_is_read_whole(script, status, body):
    reply = await answer(*script)
    assert (reply.status, reply.body) == (status, body)


async def test_the_request_is_what_http_asks_for():
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


async def test_connections_are_kept_and_used_again():
    async with serving() as server, calling() as caller:
        for _ in range(5):
            await caller.call(to(server))
        assert server.connections == 1
        await asyncio.gather(*(caller.call(to(server)) for _ in range(5)))
        assert server.connections == 5


async def test_a_connection_that_the_server_wants_closed_is_not_used_again():
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    async with serving([closing, 0.0], [OK]) as server, calling() as caller:
        await caller.call(to(server))
        await caller.call(to(server))
        assert server.connections == 2


@pytest.mark.parametrize("end", [None, RESET])
async def test_a_kept_connection_that_was_closed_is_replaced_where_the_call_may_be_repeated(end):
    async with serving([OK], [end], [OK]) as server, calling() as caller:
        await caller.call(to(server))
        reply = await caller.call(to(server))
        assert reply.body == b"ok"
        assert server.connections == 2


async def test_a_call_that_must_not_be_repeated_goes_on_a_connection_of_its_own():
    async with serving([OK], [None]) as server, calling() as caller:
        await caller.call(to(server))
        with pytest.raises(BadReply) as caught:
            await caller.call(to(server, repeatable=False))
        assert caught.value.sent
        assert len(server.requests) == 2


async def test_what_was_answered_in_part_is_not_repeated():
    async with serving([OK], [b"HTTP/1.1 200", None]) as server, calling() as caller:
        await caller.call(to(server))
        with pytest.raises(BadReply):
            await caller.call(to(server))
        assert len(server.requests) == 2


def closing(status):
    return b"HTTP/1.1 %d No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % status


@pytest.mark.parametrize("script", [
    [closing(408), None], [b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\nbye", None],
    [b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 9\r\n\r\ncut", None],
])  # fmt: skip
async def test_a_408_that_ends_a_kept_connection_is_as_if_it_were_closed_in_silence(script):
    async with serving([OK], script, [OK]) as server, calling() as caller:
        await caller.call(to(server))
        assert (await caller.call(to(server))).body == b"ok"
        assert server.connections == 2


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("said", [b"HTTP/1.1 408", closing(408)[:-4], closing(408)[:-2]])
async def test_a_408_that_is_cut_off_in_its_head_is_no_answer_as_any_other(said, kept):
    script = [said, None]
    async with serving(*[[OK]] * kept, script, [OK]) as server, calling() as caller:
        if kept:
            await caller.call(to(server))
        with pytest.raises(BadReply) as caught:
            await caller.call(to(server))
        assert str(caught.value) == "the connection was closed before the answer was whole"
        assert len(server.requests) == 1 + kept


async def test_a_408_on_a_new_connection_or_one_that_stays_open_is_an_answer():
    staying = b"HTTP/1.1 408 Slow\r\nContent-Length: 0\r\n\r\n"
    async with serving([closing(408), None]) as server, calling() as caller:
        assert (await caller.call(to(server))).status == 408
    async with serving([OK], [staying]) as server, calling() as caller:
        assert [(await caller.call(to(server))).status for _ in range(2)] == [200, 408]
    async with serving([OK], [closing(408), None]) as server, calling() as caller:
        await caller.call(to(server))
        assert (await caller.call(to(server, repeatable=False))).status == 408
        assert len(server.requests) == 2


@pytest.mark.parametrize("status", [200, 400, 503])
async def test_another_answer_that_ends_a_kept_connection_is_an_answer(status):
    async with serving([OK], [closing(status), None]) as server, calling() as caller:
        await caller.call(to(server))
        assert (await caller.call(to(server))).status == status
        assert len(server.requests) == 2


async def _crossing(status):
    """The server says goodbye while this loop is busy, so that the next request crosses it."""
    said, go = threading.Event(), threading.Event()

    def serve(listener):
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(OK)
                if not said.is_set():
                    go.wait(30)
                    connection.sendall(closing(status))
            said.set()

    with socket.create_server(("127.0.0.1", free_port())) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        there = route(Origin("http", "127.0.0.1", listener.getsockname()[1]), "GET", "/x")
        async with calling() as caller:
            await caller.call(there)
            go.set()
            assert said.wait(30)  # and the loop stands still
            assert (await caller.call(there)).body == b"ok"
        thread.join(30)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("status", [400, 408, 503])
def test_an_error_that_was_sent_before_the_request_came_is_no_answer_to_it(run, status):
    run(_crossing(status))


# --- heads that were seen before ----------------------------------------------------------------

HEAD = b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\n"
SEEN = [[HEAD + b"one"]] * 3


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
async def test_an_answer_with_a_known_head_is_read_whole_however_it_comes(script):
    async with serving(*SEEN, script, [OK]) as server, calling() as caller:
        for body in (b"one", b"one", b"one", b"two"):
            reply = await caller.call(to(server))
            assert (reply.status, reply.body) == (404, body)
            assert reply.header("content-length") == "3"
        assert (await caller.call(to(server))).body == b"ok"


@pytest.mark.parametrize("script", [[HEAD, None], [HEAD + b"tw", None], [HEAD + b"tw", RESET]])
async def test_an_answer_with_a_known_head_and_half_a_body_is_a_bad_reply(script):
    async with serving(*SEEN, script) as server, calling() as caller:
        for _ in SEEN:
            await caller.call(to(server))
        with pytest.raises(BadReply) as caught:
            await caller.call(to(server))
        assert caught.value.sent


async def test_an_answer_with_a_known_head_keeps_to_the_bound_of_its_call():
    async with serving(*SEEN, *SEEN) as server, calling() as caller:
        for _ in SEEN:
            await caller.call(to(server))
        with pytest.raises(ReplyTooLarge):
            await caller.call(to(server, max_response_bytes=2))


async def test_a_head_that_closes_its_connection_does_so_each_time():
    closing = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    async with serving(*[[closing, 0.0]] * 4) as server, calling() as caller:
        for _ in range(4):
            await caller.call(to(server))
        assert server.connections == 4


# --- lies ---------------------------------------------------------------------------------------


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
        await answer(*script)
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
async def test_one_limit_holds_for_the_whole_call_however_it_drips(script):
    with pytest.raises(CallTimedOut) as caught:
        await answer(*script, timeout_s=0.3)
    assert caught.value.sent


async def test_a_limit_is_reached_though_calls_are_made_and_end_all_the_time():
    async with serving() as server, serving([3600.0]) as deaf, calling() as caller:
        waiting = asyncio.ensure_future(caller.call(to(deaf, timeout_s=0.3)))
        while not waiting.done():
            assert (await caller.call(to(server))).body == b"ok"
        with pytest.raises(CallTimedOut):
            await waiting


async def test_every_call_has_a_limit_of_its_own():
    async with serving(*[[3600.0]] * 3) as deaf, calling() as caller:
        ended = []

        async def call(name, limit_s):
            with pytest.raises(CallTimedOut):
                await caller.call(to(deaf, timeout_s=limit_s))
            ended.append(name)

        await asyncio.gather(call("last", 0.5), call("first", 0.3), call("second", 0.4))
        assert ended == ["first", "second", "last"]


@pytest.mark.parametrize("before_s", [30.0, 0.1])
async def test_a_kept_connection_keeps_to_the_limit_of_each_call(before_s):
    async with serving([OK], [0.2, OK], [5.0]) as server, calling() as caller:
        await caller.call(to(server, timeout_s=before_s))
        await caller.call(to(server))  # it takes longer than the limit of the call before
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
async def test_an_endless_answer_is_cut_off_at_its_bound(script):
    with pytest.raises(ReplyTooLarge):
        await answer(*script, max_response_bytes=100_000)


async def test_a_body_in_tiny_chunks_takes_no_more_memory_than_one_in_large_ones():
    chunks = b"2\r\nok\r\n" * 2_000
    script = [CHUNKED, *[chunks] * 100, b"0\r\n\r\n"]
    tracemalloc.start()
    try:
        reply = await answer(*script)
        assert len(reply.body) == 400_000
        peak = tracemalloc.get_traced_memory()[1]
        assert peak < 8 * len(reply.body)  # with what is on its way; as pieces it would be 20 times
    finally:
        tracemalloc.stop()


async def test_a_trailer_is_no_header():
    late = b"Transfer-Encoding: gzip\r\nContent-Type: text/plain; charset=latin-1\r\n\r\n"
    reply = await answer(CHUNKED + b"2\r\nok\r\n0\r\n" + late)
    assert reply.body == b"ok"
    assert reply.headers_by_name() == {"transfer-encoding": "chunked"}


async def test_a_second_answer_to_one_request_spoils_the_connection_not_the_next_call():
    async with serving([OK + OK], [OK]) as server, calling() as caller:
        await caller.call(to(server))
        assert (await caller.call(to(server))).body == b"ok"
        assert server.connections == 2


async def test_half_of_a_second_answer_does_not_leak_into_the_next_one():
    async with serving([OK + b"HTTP/1.1 200 OK\r\nX-Sm"], [OK]) as server, calling() as caller:
        await caller.call(to(server))
        reply = await caller.call(to(server))
        assert reply.header("x-sm") is None
        assert server.connections == 2


async def test_a_cancelled_call_leaves_no_answer_behind_for_the_next_one():
    slow = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow"
    async with serving([0.1, slow], [OK]) as server, calling() as caller:
        asking = asyncio.ensure_future(caller.call(to(server)))
        while not server.requests:
            await asyncio.sleep(0)
        asking.cancel()
        assert (await caller.call(to(server))).body == b"ok"


async def test_a_call_that_is_cancelled_as_its_answer_comes_does_not_end_the_next_one():
    accepted = asyncio.Queue()
    listening = await asyncio.start_server(
        lambda *streams: accepted.put_nowait(streams), "127.0.0.1", free_port()
    )
    asked = route(Origin("http", *listening.sockets[0].getsockname()), "GET", "/x", timeout_s=30)
    async with calling() as caller:
        first = asyncio.ensure_future(caller.call(asked))
        reader, writer = await accepted.get()
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await asyncio.sleep(0)  # the answer is read in this step of the loop, after this task
        second = asyncio.ensure_future(caller.call(asked))
        await asyncio.sleep(0)  # the second has the connection, and the first is yet to go on
        first.cancel()
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        assert (await second).body == b"ok"
        assert first.cancelled()
        assert accepted.empty()
        writer.close()
    listening.close()


# --- connecting ---------------------------------------------------------------------------------


async def test_a_refused_connection_was_not_sent():
    async with serving() as server:
        pass
    async with calling() as caller:
        with pytest.raises(ConnectFailed, match="refused") as caught:
            await caller.call(to(server))
    assert not caught.value.sent


async def test_why_an_address_cannot_be_reached_is_said_in_the_words_of_the_system(monkeypatch):
    async def fail(*_):
        raise OSError(errno.EHOSTUNREACH, "Connect call failed ('10.0.0.7', 80)")  # as asyncio does

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", fail)
    async with calling() as caller:
        with pytest.raises(ConnectFailed, match=r"//10\.0\.0\.7:80: No route to host"):
            await caller.call(route(Origin("http", "10.0.0.7", 80), "GET", "/"))


async def test_connecting_has_a_limit_of_its_own():
    with socket.socket() as deaf:  # its backlog is full, so nobody answers the next SYN
        deaf.bind(("127.0.0.1", free_port()))
        deaf.listen(0)
        crowd = []
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(deaf.getsockname())
            crowd.append(one)
        there = route(
            Origin("http", "127.0.0.1", deaf.getsockname()[1]), "GET", "/", connect_timeout_s=0.2
        )
        async with calling() as caller:
            with pytest.raises(ConnectFailed, match=r"within 0\.2 s"):
                await caller.call(there)
        for one in crowd:
            one.close()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nobody.plant", "the name nobody.plant did not resolve: it does not exist"),
        ("lb..local", "there can be no host of this name"),
        ("x" * 64, "there can be no host of this name"),
        ("a\0b", "does not exist"),
    ],
)
@pytest.mark.parametrize("protocol", ["http", "https"])
async def test_a_name_that_does_not_or_cannot_exist_was_not_sent(protocol, name, words, tmp_path):
    there = Route(Origin(protocol, name, 80), "GET", "/", b"GET / HTTP/1.1\r\n")
    async with resolving(tmp_path, {}) as (_, names), calling(names) as caller:
        with pytest.raises(ConnectFailed, match=words) as caught:
            await caller.call(there)
        assert not caught.value.sent


async def test_a_name_that_takes_longer_than_connecting_may_is_the_reason(tmp_path):
    there = route(Origin("http", "mute.plant", 80), "GET", "/", connect_timeout_s=0.1)
    async with resolving(tmp_path, {"mute.plant": SILENT}) as (_, names), calling(names) as caller:
        with pytest.raises(ConnectFailed) as caught:
            await caller.call(there)
    assert str(caught.value) == (
        "http://mute.plant:80: the name mute.plant did not resolve: "
        "no answer from DNS 127.0.0.1 within 0.1 s"
    )


async def test_a_file_that_keeps_a_name_from_being_looked_up_is_the_reason(tmp_path):
    there = route(Origin("http", "camera.plant", 80), "GET", "/")
    async with resolving(tmp_path, {}) as (dns, names), calling(names) as caller:
        dns.files["resolv.conf"].unlink()
        dns.files["resolv.conf"].mkdir()
        with pytest.raises(ConnectFailed) as caught:
            await caller.call(there)
    assert str(caught.value) == (
        "http://camera.plant:80: the name camera.plant did not resolve: "
        f"{dns.files['resolv.conf']}: Is a directory"
    )


async def test_silent_names_hold_up_no_call_to_another_host(tmp_path):
    mute = {f"mute{n}.plant": SILENT for n in range(40)}
    with_hosts = resolving(tmp_path, mute, hosts="127.0.0.1 camera\n")
    async with serving() as server, with_hosts as (_, names), calling(names) as caller:
        hung = [asyncio.ensure_future(caller.call(to(server, host=name))) for name in mute]
        await asyncio.sleep(0)
        assert (await caller.call(to(server, host="camera"))).body == b"ok"
        assert not any(each.done() for each in hung)
        for each in hung:
            each.cancel()


async def test_the_addresses_of_a_name_are_tried_in_turn_and_the_one_that_worked_first(tmp_path):
    answers = {"camera.plant": ["127.0.0.9", "127.0.0.8", "127.0.0.1"]}
    async with serving() as server, resolving(tmp_path, answers) as (_, names):
        there = to(server, host="camera.plant", repeatable=False)
        async with calling(names) as caller:
            assert (await caller.call(there)).body == b"ok"
            await names.addresses("camera.plant")
            assert caller.connector._worked == {"camera.plant": "127.0.0.1"}
            assert (await caller.call(there)).body == b"ok"
    async with calling(names) as caller:
        with pytest.raises(ConnectFailed) as caught:
            await caller.call(there)
    refused = "127.0.0.9: connection refused; 127.0.0.8: connection refused; 127.0.0.1: connection"
    assert refused in str(caught.value)


async def test_a_server_that_does_not_speak_tls_in_time_is_told_from_one_that_is_not_there():
    async with serving() as server, calling() as caller:
        deaf = to(server, protocol="https", connect_timeout_s=0.1)
        with pytest.raises(ConnectFailed, match="did not answer the TLS handshake in time"):
            await caller.call(deaf)


async def test_a_zone_is_this_machines_own_and_is_not_sent():
    server = Server()
    listening = await asyncio.start_server(server.handle, "::1", free_port())
    server.port = listening.sockets[0].getsockname()[1]
    async with calling() as caller:
        assert (await caller.call(to(server, host="::1%1"))).body == b"ok"
        await caller.close()
        await server.closed.wait()
    listening.close()
    assert b"Host: [::1]:%d\r\n" % server.port in server.requests[0]
    assert str(Origin("http", "fe80::7%eth0", 80)) == "http://[fe80::7%eth0]:80"


def test_a_control_character_cannot_become_a_header():
    for bad in ("a\r\nX: y", "a\nb", "a\0b", "\x1b[31m", "a\x0bb", "\x7f"):
        with pytest.raises(ValueError, match="control character"):
            header_line("X", bad)
    assert header_line("X", "a\tb") == b"X: a\tb"  # RFC 9110, 5.5


async def test_a_zone_that_this_machine_does_not_have_is_said():
    async with serving() as server, calling() as caller:
        with pytest.raises(ConnectFailed, match=r"::1%none\]:\d+: .*no interface 'none'"):
            await caller.call(to(server, host="fe80::1%none"))


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("::1%lo", "only a link-local address may have an interface: leave out %lo"),
        ("fe80::1", "a link-local address needs its interface, as in fe80::7%eth0"),
        ("fe80::1%0", "a link-local address needs its interface, as in fe80::7%eth0"),
        # What no name can have: an empty label, and one of more than 63 characters.
        ("fe80::1%a..b", "there is no interface 'a..b' to it here"),
        ("::1%a..b", "there is no interface 'a..b' to it here"),
        ("fe80::1%" + 64 * "a", "there is no interface 'a{64}' to it here"),
    ],
)
async def test_a_zone_that_is_missing_or_too_much_is_said(host, why):
    async with serving() as server, calling() as caller:
        with pytest.raises(ConnectFailed, match=why):
            await caller.call(to(server, host=host))


async def _answered_by_the_second_interface():
    async with calling() as caller:
        server = Server()
        listening = await asyncio.start_server(server.handle, "::", free_port())
        server.port = listening.sockets[0].getsockname()[1]
        reply = await caller.call(to(server, host="fe80::7%second"))
        with pytest.raises(ConnectFailed, match="no interface 'third'"):
            await caller.call(to(server, host="fe80::7%third"))
        with pytest.raises(ConnectFailed, match="needs its interface"):
            await caller.call(to(server, host="fe80::7"))
        listening.close()
    return reply.body


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_zone_says_by_which_interface(run):
    here = machine()
    try:
        for name in ("first", "second"):
            here.ip("link", "add", name, "type", "veth", "peer", "name", f"{name}-end")
            here.ip("link", "set", f"{name}-end", "up")
            here.ip("link", "set", name, "up")
            here.ip("address", "add", "fe80::1/64", "dev", name, "nodad")
        here.ip("address", "add", "fe80::7/64", "dev", "second-end", "nodad")
        assert here.call(run, _answered_by_the_second_interface()) == b"ok"
    finally:
        here.end()


async def test_a_reason_does_not_name_hundreds_of_addresses(tmp_path):
    answers = {"farm.plant": [f"127.0.1.{n}" for n in range(1, 201)]}
    with_names = resolving(tmp_path, answers)
    async with serving() as server, with_names as (_, names), calling(names) as caller:
        with pytest.raises(ConnectFailed) as caught:
            await caller.call(to(server, host="farm.plant"))
    assert "127.0.1.8: connection refused; and so on: none of 200 addresses" in str(caught.value)
    assert "127.0.1.9" not in str(caught.value)


# --- TLS ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def tls_server(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


async def test_a_private_authority_is_trusted_where_it_is_named(authority, tls_server, tmp_path):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with serving(tls=tls_server) as server, calling() as caller:
        own = to(server, protocol="https", tls=Tls(ca=str(tmp_path / "ca.pem")))
        assert (await caller.call(own)).body == b"ok"
        with pytest.raises(ConnectFailed, match="not trusted"):
            await caller.call(to(server, protocol="https"))


@pytest.mark.parametrize(
    ("between", "why"),
    [(((2090, 1, 1), (2091, 1, 1)), "not yet valid"), (((2001, 1, 1), (2002, 1, 1)), "expired")],
)
async def test_a_certificate_that_is_out_of_its_time_names_the_clock(
    authority, tmp_path, between, why
):
    first, last = (datetime(*day, tzinfo=timezone.utc) for day in between)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", not_before=first, not_after=last).configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with serving(tls=context) as server, calling() as caller:
        own = to(server, protocol="https", tls=Tls(ca=str(tmp_path / "ca.pem")))
        with pytest.raises(ConnectFailed, match=rf"{why} \(the clock of this machine says 20\d\d-"):
            await caller.call(own)


async def test_a_certificate_for_another_name_is_refused(authority, tmp_path):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("camera.example").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with serving(tls=context) as server, calling() as caller:
        own = to(server, protocol="https", tls=Tls(ca=str(tmp_path / "ca.pem")))
        with pytest.raises(ConnectFailed, match="not trusted"):
            await caller.call(own)


async def test_a_server_that_asks_for_a_certificate_gets_ours(authority, tls_server, tmp_path):
    tls_server.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(tls_server)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    ours = authority.issue_cert("node-1")
    ours.private_key_pem.write_to_path(tmp_path / "key.pem")
    ours.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    names = {name: str(tmp_path / f"{name}.pem") for name in ("ca", "cert", "key")}
    async with serving(tls=tls_server) as server, calling() as caller:
        reply = await caller.call(to(server, protocol="https", tls=Tls(**names)))
        assert reply.body == b"ok"


async def _refused(port, tls):
    async with calling() as caller:
        with pytest.raises(CallFailed) as caught:
            await caller.call(route(Origin("https", "127.0.0.1", port, tls), "GET", "/x"))
    return str(caught.value)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_that_gets_no_certificate_of_ours_says_so(tmp_path, version, run):
    with demanding(tmp_path, version) as (port, ca):
        assert "it asks for a certificate" in run(_refused(port, Tls(ca=ca)))


async def _refused_by(handle):
    listening = await asyncio.start_server(handle, "127.0.0.1", free_port())
    try:
        return await _refused(listening.sockets[0].getsockname()[1], None)
    finally:
        listening.close()


async def _plain(reader, writer):
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_server_that_does_not_speak_tls_is_told_from_one_that_closes_and_a_slow_one(run):
    assert "what it sends is not TLS (" in run(_refused_by(_plain))
    assert "it closed the connection" in run(_refused_by(lambda _, writer: writer.close()))


async def _heard(reader, writer):
    await reader.read(1)
    writer.close()


async def _closed_after(steps):
    loop = asyncio.get_running_loop()
    connect = loop.create_connection

    def close(plain, left):
        if left:
            loop.call_soon(close, plain, left - 1)
        elif plain.is_reading():  # who does not read notices no end
            plain.abort()

    async def connect_and_close(*arguments):
        plain, protocol = await connect(*arguments)
        close(plain, steps)
        return plain, protocol

    loop.create_connection = connect_and_close
    logged = []
    loop.set_exception_handler(lambda _, context: logged.append(context))
    reason = await _refused_by(_heard)
    assert logged == []
    return reason


@pytest.mark.parametrize("steps", range(5))
def test_a_server_may_close_at_every_step_before_tls_begins(steps):
    """``steps`` of the event loop have been made since it took the connection."""
    assert "it closed the connection" in uvloop.run(_closed_after(steps))


async def test_authorities_that_change_are_read_again_also_where_they_are_the_systems(
    authority, tls_server, tmp_path, monkeypatch
):
    standard = tmp_path / "standard.pem"
    trustme.CA().cert_pem.write_to_path(standard)
    monkeypatch.setenv("SSL_CERT_FILE", str(standard))
    async with serving(tls=tls_server) as server, calling() as caller:
        there = to(server, protocol="https")
        with pytest.raises(ConnectFailed, match="not trusted"):
            await caller.call(there)
        before = standard.stat()
        authority.cert_pem.write_to_path(standard)
        os.utime(standard, ns=(before.st_atime_ns, before.st_mtime_ns))  # as cp -p and tar do
        assert (await caller.call(there)).body == b"ok"


async def test_authorities_of_the_systems_folder_need_no_descriptor_in_the_handshake(
    authority, tls_server, tmp_path, monkeypatch
):
    authority.cert_pem.write_to_path(tmp_path / "own.pem")
    subprocess.run(["openssl", "rehash", tmp_path], check=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path / 'none'}:{tmp_path}")
    async with serving(tls=tls_server) as server, calling() as caller:
        with descriptors_left(2):  # for the two ends of the connection
            assert (await caller.call(to(server, protocol="https"))).body == b"ok"


async def test_tls_files_that_are_not_there_are_named(tmp_path):
    async with serving() as server, calling() as caller:
        missing = to(server, protocol="https", tls=Tls(ca=str(tmp_path / "none.pem")))
        with pytest.raises(ConnectFailed, match=r"none\.pem"):
            await caller.call(missing)


@pytest.mark.parametrize("form", ["pkcs8", "traditional", "with its certificate"])
async def test_an_encrypted_key_is_told_and_nobody_is_asked(form, tls_server, tmp_path):
    cert, key = encrypted_key(tmp_path, form)
    async with serving(tls=tls_server) as server, calling() as caller:
        there = to(server, protocol="https", tls=Tls(cert=str(cert), key=key and str(key)))
        with pytest.raises(ConnectFailed, match=f"the key file {key or cert} is encrypted: the"):
            await caller.call(there)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("key", r"key\.pem holds no private key in PEM"),
        ("cert", r"cert\.pem holds no certificate in PEM"),
        ("ca", r"ca\.pem holds no certificate in PEM"),
        ("another", r"key\.pem is not the one of the first certificate in .*cert\.pem"),
        ("broken", r"ca\.pem holds a certificate that OpenSSL cannot read"),
        ("weak", r"the certificate in .*cert\.pem is too weak for OpenSSL here \(EE_KEY_TOO_SMALL"),
    ],
)
async def test_a_tls_file_that_holds_the_wrong_thing_is_named(authority, tmp_path, wrong, why):
    paths = {each: tmp_path / f"{each}.pem" for each in ("ca", "cert", "key")}
    ours, other = authority.issue_cert("node-1"), authority.issue_cert("node-2")
    authority.cert_pem.write_to_path(paths["ca"])
    ours.cert_chain_pems[0].write_to_path(paths["cert"])
    (other if wrong == "another" else ours).private_key_pem.write_to_path(paths["key"])
    if wrong == "weak":
        weak_key(paths["key"], paths["cert"])
    if wrong == "broken":
        paths["ca"].write_text(f"{paths['ca'].read_text()}-----BEGIN CERTIFICATE-----\n")
    if wrong in paths:
        paths[wrong].write_bytes(b"\x30\x82")  # as DER begins
    async with serving() as server, calling() as caller:
        tls = Tls(**{each: str(path) for each, path in paths.items()})
        with pytest.raises(ConnectFailed, match=why):
            await caller.call(to(server, protocol="https", tls=tls))


# --- beside another client ----------------------------------------------------------------------

_bodies = st.binary(max_size=5_000)


@st.composite
def exchanges(draw):
    """A well-formed answer in any of the forms of a body."""
    status = draw(st.sampled_from([200, 201, 202, 302, 400, 404, 418, 500, 503]))
    body = draw(_bodies)
    form = draw(st.sampled_from(["length", "chunked", "close"]))
    interim = draw(st.lists(st.sampled_from([100, 102, 103]), max_size=2))
    lines = [f"HTTP/1.1 {status} Something"]
    values = draw(st.lists(st.sampled_from(["a", "b c", ""]), max_size=3))
    lines += [f"X-Header-{n}: {value}" for n, value in enumerate(values)]
    if form == "length":
        lines.append(f"Content-Length: {len(body)}")
        sent = body
    elif form == "chunked":
        lines.append("Transfer-Encoding: chunked")
        sent, at = b"", 0
        while at < len(body):
            size = draw(st.integers(1, len(body) - at))
            sent += b"%x\r\n%b\r\n" % (size, body[at : at + size])
            at += size
        sent += b"0\r\n\r\n"
    else:
        sent = body
    head = "".join(f"HTTP/1.1 {code} Wait\r\n\r\n" for code in interim)
    whole = (head + "\r\n".join(lines) + "\r\n\r\n").encode() + sent
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    return [*(part for part in parts if part), *([None] if form == "close" else [])]


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.lists(exchanges(), min_size=1, max_size=4))
def test_random_answers_are_read_as_aiohttp_reads_them_and_again_when_they_are_known(scripts):
    async def both():
        often = [script for script in scripts for _ in range(3)]
        async with serving(*scripts, *often) as server, calling() as caller:
            url = f"http://127.0.0.1:{server.port}/x"
            async with aiohttp.ClientSession(auto_decompress=False) as session:
                theirs = []
                for _ in scripts:
                    async with session.get(url, allow_redirects=False) as reply:
                        theirs.append((reply.status, await reply.read()))
            ours = [await caller.call(to(server)) for _ in often]
            assert [(reply.status, reply.body) for reply in ours] == [
                expected for expected in theirs for _ in range(3)
            ]

    asyncio.run(both())
