"""`RestService` in this process: replacing a service, and stopping."""

from __future__ import annotations

import asyncio
import re
import resource
import socket
from typing import cast

import pytest

from fractal_rm.config.model import Rest
from nodes import HOST
from ports import free_port
from rest_services import make_service


async def test_a_response_that_is_being_read_when_the_node_stops_is_sent_completely():
    # The response is larger than what a kernel buffers.
    rest_service = make_service(Rest(port=free_port()), title="x" * 30_000_000)
    await rest_service.start()
    reader, writer = await asyncio.open_connection(HOST, rest_service.listeners.port)
    writer.write(b"GET /v1/flows HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    stopping = asyncio.create_task(rest_service.stop())
    body = await asyncio.wait_for(reader.read(), 30)
    length = cast("re.Match[bytes]", re.search(rb"content-length: ([0-9]+)", head))[1]
    assert len(body) == int(length)
    await stopping
    writer.close()


@pytest.mark.parametrize("turns", [1, 2, 3])
async def test_a_client_that_connects_while_rest_changes_gets_the_new_configuration(turns):
    """``turns``: how many turns of the event loop run between the connect and the change."""
    port = free_port()
    old_service = make_service(Rest("/before", port=port))
    new_service = make_service(Rest("/after", port=port))
    await old_service.start()
    client = socket.create_connection((HOST, port))
    for _ in range(turns):
        await asyncio.sleep(0)
    await new_service.start(old_service)
    reader, writer = await asyncio.open_connection(sock=client)
    writer.write(b"PUT /after HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await reader.readline()).startswith(
        b"HTTP/1.1 405 "
    )  # the path exists for GET and POST
    writer.close()
    await new_service.stop()


async def test_an_unchanged_address_needs_no_file_descriptor():
    """Clients may have used up all descriptors. A change that refuses them must still succeed."""
    port = free_port()
    old_service = make_service(Rest("/before", port=port))
    new_service = make_service(Rest("/after", port=port))
    await old_service.start()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        await new_service.start(old_service)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert new_service.status().ok
    await new_service.stop()
