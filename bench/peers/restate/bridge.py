"""Passes triggers from MQTT to Restate. A trigger is acknowledged when Restate has accepted it.

python bridge.py INGRESS_PORT BROKER_PORT TOPIC

The bridge uses the same libraries as the bare loop, so it takes little of the measured CPU time.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import gmqtt
import httptools
import uvloop
from gmqtt.mqtt.constants import MQTTv311

HOST = "127.0.0.1"
CONNECTIONS = 64
RETRY_S = 0.1
HANDLED = 0  # gmqtt sends PUBACK when a handler returns this


class Connection(asyncio.Protocol):
    """A keep-alive connection to Restate's ingress, used by one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._transport: asyncio.Transport | None = None
        self._head = (
            f"POST /Flow1/run/send HTTP/1.1\r\nHost: {HOST}:{port}\r\n"
            "Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        ).encode()

    async def send(self, trigger: bytes) -> int:
        """Send a trigger. Returns the HTTP status. Raises OSError if there is no response."""
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport.is_closing():
            self._transport, _ = await loop.create_connection(lambda: self, HOST, self._port)
            self._parser = httptools.HttpResponseParser(self)
        self._answer = loop.create_future()
        self._transport.write(self._head % (len(trigger), trigger))
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._answer.set_result(self._parser.get_status_code())

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answer.done():
            self._answer.set_exception(
                exc or ConnectionResetError("Restate closed the connection before its response")
            )


async def main(ingress_port: int, broker_port: int, topic: str) -> None:
    idle_connections: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
    for _ in range(CONNECTIONS):
        idle_connections.put_nowait(Connection(ingress_port))

    async def on_message(
        _client: gmqtt.Client, _topic: str, payload: bytes, _qos: int, _: Any
    ) -> int:
        connection = await idle_connections.get()
        try:
            while not await send_trigger(connection, payload):  # noqa: ASYNC110 - no event to wait for
                await asyncio.sleep(RETRY_S)
        finally:
            idle_connections.put_nowait(connection)
        return HANDLED

    # With a persistent session, the broker repeats unacknowledged messages after a restart.
    client = gmqtt.Client("bench-restate", clean_session=False, optimistic_acknowledgement=False)
    client.on_connect = lambda *_: client.subscribe(topic, qos=1)
    client.on_subscribe = lambda *_: print("subscribed", flush=True)
    client.on_message = on_message
    await client.connect(HOST, broker_port, version=MQTTv311)
    await asyncio.Event().wait()


async def send_trigger(connection: Connection, payload: bytes) -> bool:
    """Send a trigger. Returns whether Restate has accepted it."""
    try:
        return 200 <= await connection.send(payload) < 300
    except OSError:
        return False


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
