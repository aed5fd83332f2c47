"""Runs flow 1 for each trigger. It stores nothing, so a crash loses the triggers.

python loop.py NGINX_PORT BROKER_PORT TOPIC
"""

from __future__ import annotations

import asyncio
import gc
import sys
from typing import Any

import gmqtt
import httptools
import msgspec
import uvloop

HOST = "127.0.0.1"
CONNECTIONS = 32  # wrk opens the same number in the benchmark

encode, decode = msgspec.json.encode, msgspec.json.decode


class Connection(asyncio.Protocol):
    """A keep-alive connection, used by one flow at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._transport: asyncio.Transport | None = None
        host = f"HTTP/1.1\r\nHost: {HOST}:{port}\r\n"
        self._get = f"GET /LB/id_node {host}\r\n".encode()
        self._post = (
            f"POST /endpoint1 {host}Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        ).encode()

    async def run_flows(self, triggers: asyncio.Queue[bytes]) -> None:
        """Run flow 1 for each trigger in the queue, forever."""
        while True:
            trigger = decode(await triggers.get())
            answer = await self._call(self._get)
            if decode(answer)["id_node"] is not None:
                continue
            result1 = await self._call_component(trigger["payload"])
            result2 = await self._call_component(result1)
            await self._call_component(result1, result2)

    async def _call_component(self, *items: str) -> str:
        body = encode({"payload": items})
        return (await self._call(self._post % (len(body), body))).decode()

    async def _call(self, request: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport.is_closing():
            self._transport, _ = await loop.create_connection(lambda: self, HOST, self._port)
            self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._answer = loop.create_future()
        self._transport.write(request)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, part: bytes) -> None:
        self._body += part

    def on_message_complete(self) -> None:
        self._answer.set_result(self._body)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answer.done():  # the exception ends the program, as the measurement is invalid
            self._answer.set_exception(
                exc or ConnectionResetError("nginx closed the connection before its response")
            )


async def main(nginx_port: int, broker_port: int, topic: str) -> None:
    triggers: asyncio.Queue[bytes] = asyncio.Queue()

    def on_message(
        _client: gmqtt.Client, _topic: str, payload: bytes, _qos: int, _about: Any
    ) -> None:
        triggers.put_nowait(payload)  # gmqtt has already sent the PUBACK

    client = gmqtt.Client("bench-bare-loop")
    client.on_connect = lambda *_: client.subscribe(topic, qos=1)
    client.on_subscribe = lambda *_: print("subscribed", flush=True)
    client.on_message = on_message
    await client.connect(HOST, broker_port)
    gc.collect()
    gc.freeze()  # as the Runtime Manager does
    connections = [Connection(nginx_port) for _ in range(CONNECTIONS)]
    await asyncio.gather(*(connection.run_flows(triggers) for connection in connections))


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
