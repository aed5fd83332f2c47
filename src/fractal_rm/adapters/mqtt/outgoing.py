"""Our messages to the broker that it has not acknowledged yet, within its Receive Maximum."""

from __future__ import annotations

import asyncio
from typing import Any

import gmqtt  # pyright: ignore[reportMissingTypeStubs]

from fractal_rm.adapters.mqtt.client import Client
from fractal_rm.adapters.mqtt.errors import ConnectionLost
from fractal_rm.adapters.mqtt.reason_codes import NOT_AUTHORIZED, REFUSED, TEMPORARY, in_words
from fractal_rm.domain.call_errors import PublishFailed

MAX_WINDOW = 500
PUBACK_LIMIT_S = 10.0
_HEAD_BYTES = 32  # the most that a PUBLISH has beside topic, correlation data and body


class OutgoingMessages:
    """The messages of one connection. ``client`` is connected when `begin` is called."""

    def __init__(self, client: Client, *, mqtt_5: bool) -> None:
        self._client = client
        self._mqtt_5 = mqtt_5
        self._window_size = 1
        self._window = asyncio.Semaphore(1)
        self._alone = asyncio.Lock()  # held while a message takes the whole window
        self._unacknowledged: dict[int, asyncio.Future[int]] = {}
        self._ended: str | None = None
        self._last_was_refused = False  # by its PUBACK
        self.ended_it = False  # the broker closed the connection because of a known message
        self.may_have_ended_it = False  # the broker may have closed it because of a message

    @property
    def count(self) -> int:
        """How many messages are unacknowledged."""
        return len(self._unacknowledged)

    def begin(self) -> None:
        """Apply the broker's Receive Maximum (MQTT 5, 3.2.2.3.3)."""
        self._window_size = min(self._client.limit("receive_maximum", 65_535), MAX_WINDOW)
        self._window = asyncio.Semaphore(self._window_size)

    async def publish(
        self,
        topic: str,
        body: bytes,
        correlation: bytes | None = None,
        *,
        retain: bool = False,
        alone: bool = False,
    ) -> None:
        """Send a message at QoS 1, and wait for its PUBACK. Raises PublishFailed.

        ``alone``: while no other message of ours is unacknowledged.
        """
        if correlation is None or not self._mqtt_5:
            correlation = b""
        self._check_size(_HEAD_BYTES + len(topic.encode()) + len(correlation) + len(body))
        properties: dict[str, Any] = {"correlation_data": correlation} if correlation else {}
        message = gmqtt.Message(topic.encode(), body, qos=1, retain=retain, **properties)
        if alone:
            reason_code = await self._send_alone(message)
        else:
            async with self._window:
                reason_code = await self._send(message)
        if reason_code >= REFUSED:
            raise PublishFailed(_refusal(reason_code), final=reason_code not in TEMPORARY)

    async def publish_unconfirmed(self, topic: str, body: bytes, *, qos: int, retain: bool) -> None:
        """Send a message without waiting for a PUBACK."""
        async with self._window:
            self._client.publish(gmqtt.Message(topic, body, qos=qos, retain=retain))

    async def _send_alone(self, message: gmqtt.Message) -> int:
        held = 0
        async with self._alone:  # two that fill the window would wait for each other
            try:
                while held < self._window_size:
                    await self._window.acquire()
                    held += 1
                return await self._send(message)
            finally:
                for _ in range(held):
                    self._window.release()

    async def _send(self, message: gmqtt.Message) -> int:
        """Send it; returns the reason code of its PUBACK."""
        if self._ended is not None:
            raise ConnectionLost(self._ended)
        packet_id = self._client.publish(message)
        acknowledged = asyncio.get_running_loop().create_future()
        self._unacknowledged[packet_id] = acknowledged
        try:
            return await asyncio.wait_for(acknowledged, PUBACK_LIMIT_S)
        except asyncio.TimeoutError:
            why = f"the broker did not acknowledge it within {PUBACK_LIMIT_S:.0f} s"
            raise PublishFailed(why) from None
        finally:
            if self._unacknowledged.get(packet_id) is acknowledged:
                del self._unacknowledged[packet_id]

    def _check_size(self, size: int) -> None:
        """Refuse what the broker does not accept: it would close the connection for it."""
        most = self._client.limit("maximum_packet_size", 256 * 1024 * 1024)
        if size > most:
            raise PublishFailed(
                f"the broker accepts at most {most} bytes, header included", final=True
            )
        if self._client.limit("max_qos", 2) == 0:
            raise PublishFailed("the broker accepts no messages at QoS 1", final=True)

    def on_puback(self, data: bytes) -> None:
        """A PUBACK packet came (MQTT 5, 3.4); in MQTT 3.1.1 it has no reason code."""
        reason_code = data[2] if len(data) > 2 else 0
        self._last_was_refused = reason_code >= REFUSED
        waiting = self._unacknowledged.get(int.from_bytes(data[:2], "big"))
        if waiting is not None and not waiting.done():
            waiting.set_result(reason_code)

    def end(self, reason: str, *, cut: bool) -> None:
        """The connection has ended. ``cut``: the broker closed it, perhaps because of a message.

        Right after a refused message that one is the cause, and no unacknowledged one: Mosquitto
        2.0.11 does so with an unbounded queue.
        """
        if self._ended is not None:
            return
        self._ended = reason
        waiting = [each for each in self._unacknowledged.values() if not each.done()]
        alone = len(waiting) == 1
        self.ended_it = cut and (alone or self._last_was_refused)
        self.may_have_ended_it = cut and (bool(waiting) or self._last_was_refused)
        for each in waiting:
            lost = ConnectionLost(reason, cut=cut and not self._last_was_refused, alone=alone)
            each.set_exception(lost)


def _refusal(reason_code: int) -> str:
    if reason_code == NOT_AUTHORIZED:
        return f"this user may not publish on that topic: {in_words(reason_code)}"
    return f"the broker refuses it: {in_words(reason_code)}"
