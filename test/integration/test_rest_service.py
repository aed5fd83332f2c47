"""The REST service in this process: what its start in the place of another, and its end, do."""

from __future__ import annotations

import asyncio
import re
import resource
import socket
from typing import Any, cast

import pytest

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.adapters.memory import QuietTelemetry
from fractal_rm.config.model import Rest
from fractal_rm.domain.flow import Flow
from fractal_rm.web import RestService
from nodes import HOST
from ports import free_port

NOBODY: Any = None  # takes no trigger: none comes so far


def service(rest: Rest, title: str = "") -> RestService:
    """One whose list of flows is as long as the title of the only one."""
    return RestService(
        rest,
        intake=NOBODY,
        history=NOBODY,
        flows=lambda: {"1": Flow("1", title)},
        names=frozenset,
        max_trigger_bytes=lambda: 1_000,
        clock=SystemClock(),
        telemetry=QuietTelemetry(),
    )


async def test_an_answer_that_a_client_reads_while_the_node_stops_comes_whole():
    made = service(Rest(port=free_port()), title="x" * 30_000_000)  # more than any kernel takes
    await made.start()
    reader, writer = await asyncio.open_connection(HOST, made.listeners.port)
    writer.write(b"GET /v1/flows HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    stopping = asyncio.create_task(made.stop())
    body = await asyncio.wait_for(reader.read(), 30)
    length = cast("re.Match[bytes]", re.search(rb"content-length: ([0-9]+)", head))[1]
    assert len(body) == int(length)
    await stopping
    writer.close()


@pytest.mark.parametrize("steps", [1, 2, 3])
async def test_a_client_that_comes_while_rest_changes_is_served_as_it_is_then(steps):
    """``steps`` of the event loop have been made since it connected: so far is its connection."""
    port = free_port()
    before, after = service(Rest("/before", port=port)), service(Rest("/after", port=port))
    await before.start()
    client = socket.create_connection((HOST, port))
    for _ in range(steps):
        await asyncio.sleep(0)
    await after.start(before)
    reader, writer = await asyncio.open_connection(sock=client)
    writer.write(b"GET /after HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 405 ")  # it is there, for POST
    writer.close()
    await after.stop()


async def test_an_address_that_stays_needs_no_descriptor():
    """All may be in use, by clients, and one of them is who must not come any more."""
    port = free_port()
    before, after = service(Rest("/before", port=port)), service(Rest("/after", port=port))
    await before.start()
    most, at_most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, at_most))
    try:
        await after.start(before)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, at_most))
    assert after.status().ok
    await after.stop()
