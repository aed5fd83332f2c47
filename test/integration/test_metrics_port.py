"""``metrics.port``: a server for `/metrics` without a web stack. Bad clients do not disturb it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from fractal_rm.adapters.memory import QuietTelemetry
from fractal_rm.adapters.metrics import server
from fractal_rm.adapters.metrics.server import MAX_CONNECTIONS, MetricsServer
from nodes import HOST, NodeProcess, wait_until
from ports import free_port

GET = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:9464\r\n\r\n"


async def exposition() -> bytes:
    return b"fractal_rm_paused 0\n" * 50_000


@asynccontextmanager
async def serving(telemetry=None):
    port, telemetry = free_port(), telemetry or QuietTelemetry()
    task = asyncio.create_task(MetricsServer(port, exposition, telemetry).serve())
    while "metrics_served" not in telemetry.events:
        await asyncio.sleep(0.001)
    try:
        yield port
    finally:
        task.cancel()


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(request)
    try:
        return await reader.read()
    finally:
        writer.close()


async def test_get_and_head_are_answered_and_the_connection_is_closed():
    async with serving() as port:
        head, _, body = (await ask(port, GET)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert body == await exposition()
        head_answer = await ask(port, GET.replace(b"GET", b"HEAD"))
        assert head_answer == head + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /other HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"421"),
        (b"\x16\x03\x01 garbage \xff\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 100_000, b"431"),
        (b"GET /metrics?a=b HTTP/1.0\r\n\r\n", b"200"),
    ],
)
async def test_each_other_request_gets_its_status(request_text, status):
    async with serving() as port:
        assert (await ask(port, request_text)).startswith(b"HTTP/1.1 " + status)


async def test_a_thousand_silent_connections_do_not_stop_the_scraper(monkeypatch):
    monkeypatch.setattr(server, "REQUEST_LIMIT_S", 0.2)
    async with serving() as port:
        silent = [await asyncio.open_connection(HOST, port) for _ in range(1_000)]
        closed = [asyncio.create_task(reader.read()) for reader, _ in silent]
        await asyncio.wait(closed)  # those over the bound at once, the others after the limit
        assert (await ask(port, GET)).startswith(b"HTTP/1.1 200")
        for _, writer in silent:
            writer.close()


async def test_a_client_that_does_not_read_its_answer_is_disconnected(monkeypatch):
    monkeypatch.setattr(server, "ANSWER_LIMIT_S", 0.2)
    async with serving() as port:
        slow = [
            await asyncio.open_connection(HOST, port, limit=1_024) for _ in range(MAX_CONNECTIONS)
        ]
        for reader, writer in slow:
            reader._transport.pause_reading()
            writer.write(GET)
        while True:
            try:
                assert (await ask(port, GET)).startswith(b"HTTP/1.1 200")
                break
            except (ConnectionError, AssertionError):
                await asyncio.sleep(0.01)
        for _, writer in slow:
            writer.transport.abort()


async def test_a_port_in_use_is_reported_once_and_tried_again(monkeypatch):
    monkeypatch.setattr(server, "RETRY_S", 0.01)
    telemetry, port = QuietTelemetry(), free_port()
    other = await asyncio.start_server(lambda *_: None, HOST, port)
    task = asyncio.create_task(MetricsServer(port, exposition, telemetry).serve())
    while "metrics_not_served" not in telemetry.events:
        await asyncio.sleep(0.001)
    other.close()
    await other.wait_closed()
    while "metrics_served" not in telemetry.events:
        await asyncio.sleep(0.001)
    task.cancel()
    assert telemetry.events.count("metrics_not_served") == 1


def test_the_process_with_mqtt_serves_the_port_and_the_rest_port_serves_the_same(make):
    node: NodeProcess = make(mode="up")
    port = free_port()
    node.edit("comm", metrics__port=port)
    node.start()
    wait_until(lambda: "metrics_served" in node.log)
    assert node.trigger("2", Prefer="wait=30").body["state"] == "succeeded"

    async def both() -> tuple[bytes, bytes]:
        request = b"GET /metrics HTTP/1.0\r\n\r\n"
        return await ask(port, request), await ask(node.rest, request)

    for text in asyncio.run(both()):
        assert b'\nfractal_rm_runs_settled_total{flow="2",state="succeeded"} 1\n' in text
        assert b'fractal_rm_triggers_total{source="rest",outcome="accepted"} 1\n' in text
    assert node.stop() == 0
