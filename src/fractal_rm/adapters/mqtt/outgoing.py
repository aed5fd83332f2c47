"""Messages of ours that the broker has not acknowledged yet: at most as many as it will have."""

from __future__ import annotations

import asyncio
from typing import Any

import gmqtt  # pyright: ignore[reportMissingTypeStubs]
from gmqtt.mqtt.package import PublishPacket  # pyright: ignore[reportMissingTypeStubs]

from fractal_rm.adapters.mqtt.client import said_by_broker
from fractal_rm.domain.errors import PublishFailed

AT_ONCE = 500
_FOR_OTHERS = 4  # packet ids: the node's status, and a subscription that changes meanwhile
_HEAD_BYTES = 32  # what a PUBLISH has beside its topic, its correlation data and its body, at most
_packets: Any = PublishPacket


class Outgoing:
    """The messages of one connection; ``client`` is connected from `begin` on."""

    def __init__(self, client: Any, *, mqtt_5: bool) -> None:
        self._client = client
        self._mqtt_5 = mqtt_5
        self._window = asyncio.Semaphore(1)
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._ended: str | None = None

    def begin(self) -> None:
        """Take up the broker's Receive Maximum (MQTT 5, 3.2.2.3.3)."""
        receive_maximum = said_by_broker(self._client, "receive_maximum", 65_535)
        self._window = asyncio.Semaphore(max(1, min(receive_maximum - _FOR_OTHERS, AT_ONCE)))

    async def publish(self, topic: str, body: bytes, correlation: bytes | None = None) -> None:
        """Send one at QoS 1, and wait for its PUBACK. Raises PublishFailed."""
        if correlation is None or not self._mqtt_5:
            correlation = b""
        self._check_size(_HEAD_BYTES + len(topic.encode()) + len(correlation) + len(body))
        properties: dict[str, Any] = {"correlation_data": correlation} if correlation else {}
        message = gmqtt.Message(topic.encode(), body, qos=1, **properties)
        async with self._window:
            if self._ended is not None:
                raise PublishFailed(self._ended)
            packet_id = self._send(message)
            acknowledged = asyncio.get_running_loop().create_future()
            self._waiting[packet_id] = acknowledged
            try:
                reason_code = await acknowledged
            finally:
                if self._waiting.get(packet_id) is acknowledged:
                    del self._waiting[packet_id]
        if reason_code >= 0x80:
            raise PublishFailed(
                f"the broker refuses it: reason code 0x{reason_code:02x}", final=True
            )

    def _check_size(self, size: int) -> None:
        """A broker cuts off who sends more than it takes, and with it all that comes in."""
        most = said_by_broker(self._client, "maximum_packet_size", 256 * 1024 * 1024)
        if size > most:
            raise PublishFailed(
                f"the broker takes at most {most} bytes, header and all", final=True
            )
        if said_by_broker(self._client, "max_qos", 2) == 0:
            raise PublishFailed("the broker takes no messages at QoS 1", final=True)

    def _send(self, message: gmqtt.Message) -> int:
        """Without gmqtt's store, which would send it again on a connection that it never makes."""
        connection = self._client._connection  # noqa: SLF001
        try:
            packet_id, packet = _packets.build_package(message, connection._protocol)  # noqa: SLF001
        except OverflowError as error:
            raise PublishFailed("too much is on its way to the broker") from error
        connection.send_package(packet)
        return packet_id

    def on_puback(self, data: bytes) -> None:
        """A PUBACK packet came (MQTT 5, 3.4); in MQTT 3.1.1 it has no reason code."""
        waiting = self._waiting.get(int.from_bytes(data[:2], "big"))
        if waiting is not None and not waiting.done():
            waiting.set_result(data[2] if len(data) > 2 else 0)

    def end(self, reason: str) -> None:
        """The connection is gone: nobody knows what became of them."""
        self._ended = reason
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(PublishFailed(reason))
