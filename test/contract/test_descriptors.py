"""Without a free file descriptor, calls wait in order, and a journal refuses triggers."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvloop
from disk_journals import open_and_close, sqlite_journal

from dns import resolving
from fractal_rm.adapters.http1 import Http1Caller
from fractal_rm.domain.call import Origin, route
from fractal_rm.domain.call_errors import ConnectFailed
from fractal_rm.domain.facts import Settled
from fractal_rm.domain.journal_errors import JournalNoDescriptor
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import begun, entry, write

# A server that answers GET /<n> after n milliseconds. It runs in a process of its own, so that it
# does not use file descriptors of the test.
SERVER = """
import asyncio

async def answer(reader, writer):
    while head := await reader.readuntil(b"\\r\\n\\r\\n"):
        _, path, *_ = head.split()
        await asyncio.sleep(int(path.removeprefix(b"/")) / 1000)
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")

async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=500)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


def port_of(process):
    return int(process.stdout.readline())


@pytest.fixture(scope="module")
def ports():
    """The ports of two servers."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        for _ in range(2)
    ]
    yield [port_of(process) for process in started]
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def limit_free_descriptors(count):
    """Leave only ``count`` file descriptors of this process free.

    Yields a function that frees one more.
    """
    limits_before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir()) + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 64, limits_before[1]))
    descriptors = []
    try:
        while True:
            try:
                descriptors.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                break
        for _ in range(count):
            os.close(descriptors.pop())
        yield lambda: os.close(descriptors.pop())
    finally:
        for each in descriptors:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits_before)


def to(port, ms=0, **options):
    """The route of an HTTP call that the server answers after ``ms`` milliseconds."""
    host = options.pop("host", "127.0.0.1")
    options.setdefault("timeout_s", 20.0)
    return route(Origin("http", host, port), "GET", f"/{ms}", **options)


async def _more_calls_than_descriptors(port):
    caller = Http1Caller()
    await caller.call(to(port))
    with limit_free_descriptors(3):
        replies = await asyncio.gather(*(caller.call(to(port, 5)) for _ in range(40)))
        not_repeatable = [caller.call(to(port, 5, repeatable=False)) for _ in range(10)]
        replies += await asyncio.gather(*not_repeatable)
    assert [reply.body for reply in replies] == [b"ok"] * 50
    await caller.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_more_calls_than_descriptors_all_succeed(run, ports):
    run(_more_calls_than_descriptors(ports[0]))


async def test_an_idle_connection_is_closed_for_a_call_to_another_host(ports):
    caller = Http1Caller()
    await asyncio.gather(*(caller.call(to(ports[0], 5)) for _ in range(5)))
    with limit_free_descriptors(0):
        assert (await caller.call(to(ports[1]))).body == b"ok"
        # One idle connection was closed. This call uses one of the other four.
        assert (await caller.call(to(ports[0]))).body == b"ok"
    await caller.close()


async def close_completely(caller):
    """Close the caller, and wait until its descriptors are free."""
    await caller.close()
    while caller.open_connections:
        await asyncio.sleep(0)
    await asyncio.sleep(0)


async def wait_for_connection(caller):
    """Wait until the caller has a connection."""
    while not caller.established_connections:
        await asyncio.sleep(0)


async def _calls_wait_in_order(busy, other):
    """A call to the port ``busy`` uses the only free descriptor. Six other calls wait for it."""
    caller = Http1Caller()
    finished_calls = []

    async def call(name, route):
        await caller.call(route)
        finished_calls.append(name)

    # Let uvloop open a descriptor, which it does at its first connection and never closes.
    await caller.call(to(other))
    await close_completely(caller)
    with limit_free_descriptors(1):
        holder = asyncio.ensure_future(call("holder", to(busy, 100)))
        await wait_for_connection(caller)
        waiting = []
        for n in range(6):
            waiting.append(asyncio.ensure_future(call(n, to(busy if n % 2 else other))))
            while caller.connector.waiting_count <= n:
                await asyncio.sleep(0)
        await asyncio.gather(holder, *waiting)
    assert finished_calls == ["holder", 0, 1, 2, 3, 4, 5]
    await caller.close()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_waiting_calls_get_free_descriptors_in_the_order_in_which_they_were_made(run, ports):
    run(_calls_wait_in_order(*ports))


class ConnectOnce(asyncio.Protocol):
    """Calls ``on_connected`` when it is connected, and then closes the connection."""

    def __init__(self, on_connected):
        self._on_connected = on_connected

    def connection_made(self, transport):
        self._on_connected()
        transport.abort()


async def test_a_connection_to_a_broker_and_waiting_calls_take_turns_to_get_descriptors(ports):
    other = ports[1]
    caller = Http1Caller()
    broker_connector = caller.connector.with_own_resolver()
    order = []

    async def call(name):
        await caller.call(to(other))
        order.append(name)

    def connect(limit_s):
        ends_s = asyncio.get_running_loop().time() + limit_s
        broker = ConnectOnce(lambda: order.append("broker"))
        return broker_connector.connect(broker, "127.0.0.1", other, limit_s=limit_s, ends_s=ends_s)

    with limit_free_descriptors(0) as free_one:
        calls = []
        for each in (*(call(n) for n in range(5)), connect(20)):
            waiting = broker_connector.waiting_count
            calls.append(asyncio.ensure_future(each))
            while broker_connector.waiting_count == waiting:
                await asyncio.sleep(0)
        free_one()
        await asyncio.gather(*calls)
    assert "broker" in order[:2]  # free descriptors go to calls and to brokers in turn
    assert [each for each in order if each != "broker"] == [0, 1, 2, 3, 4]
    await caller.close()


async def test_timeout_s_limits_the_wait_for_a_descriptor_and_connect_timeout_s_does_not(
    ports,
):
    caller = Http1Caller()
    await caller.call(to(ports[1]))
    await close_completely(caller)
    with limit_free_descriptors(1) as free_one:
        hung = asyncio.ensure_future(caller.call(to(ports[0], 60_000)))
        await wait_for_connection(caller)
        patient = asyncio.ensure_future(caller.call(to(ports[1], connect_timeout_s=0.05)))
        with pytest.raises(ConnectFailed) as caught:
            await caller.call(to(ports[1], timeout_s=0.3))
        assert "all file descriptors are in use" in str(caught.value)
        assert "and none became free within" in str(caught.value)
        assert not caught.value.sent
        assert not patient.done()
        free_one()
        assert (await patient).body == b"ok"
        hung.cancel()
    await caller.close()


async def test_a_name_lookup_waits_for_a_descriptor(ports, tmp_path):
    async with resolving(tmp_path, {"camera.plant": ["127.0.0.1"]}) as (_, names):
        caller = Http1Caller(resolver=names)
        with limit_free_descriptors(0) as free_one:
            call = asyncio.ensure_future(caller.call(to(ports[0], host="camera.plant")))
            await asyncio.sleep(0.05)
            assert not call.done()
            for _ in range(3):
                free_one()
            assert (await call).body == b"ok"
        await caller.close()


async def test_a_trigger_with_an_id_is_accepted_without_a_free_descriptor(tmp_path):
    journal_lost = asyncio.get_running_loop().create_future()
    journal = sqlite_journal(tmp_path, on_lost=journal_lost.set_exception)
    await journal.open()
    with limit_free_descriptors(0):
        accepted = asyncio.ensure_future(journal.accept(entry("a", key="k")))
        await asyncio.wait((accepted, journal_lost), return_when=asyncio.FIRST_COMPLETED)
        assert not journal_lost.done()
        assert await accepted is None
    await journal.close(clean=True)


async def test_a_journal_that_cannot_open_its_next_file_refuses_runs_until_it_can(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    accepted = 0
    with limit_free_descriptors(0):
        with pytest.raises(JournalNoDescriptor, match="ulimit"):
            while True:
                await asyncio.wait_for(journal.accept(entry(f"run-{accepted}")), 20)
                accepted += 1
        durable = write(journal, begun("run-0"), Settled(State.SUCCEEDED))
        assert isinstance(journal.blocked, JournalNoDescriptor)
    await durable
    assert await journal.accept(entry("after")) is None
    await journal.close(clean=True)
    assert len((await open_and_close(tmp_path)).runs) == accepted
