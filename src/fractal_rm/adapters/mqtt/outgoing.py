"""Sends messages to the broker, and waits for their PUBACKs.

The number of unacknowledged messages is limited by the broker's Receive Maximum.
"""

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
_HEAD_BYTES = 32  # the most bytes of a PUBLISH besides topic, correlation data and body


class OutgoingMessages:
    """The messages sent on one connection. Call `begin` when ``client`` is connected."""

    def __init__(self, client: Client, *, mqtt_5: bool) -> None:
        self._client = client
        self._mqtt_5 = mqtt_5
        self._window_size = 1
        self._window = asyncio.Semaphore(1)
        self._alone_lock = asyncio.Lock()  # locked while one message occupies the whole window
        self._unacknowledged: dict[int, asyncio.Future[int]] = {}
        self._end_reason: str | None = None  # why the connection has ended; None while it is open
        self._last_was_refused = False  # the last PUBACK was a refusal
        # Whether the broker certainly closed the connection because of a message.
        self.ended_connection = False
        # Whether the broker may have closed the connection because of a message.
        self.may_have_ended_connection = False

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

        ``alone``: wait until no other message that we sent is unacknowledged, and send no other
        message until the PUBACK has come.
        """
        if correlation is None or not self._mqtt_5:
            correlation = b""
        self._check_limits(_HEAD_BYTES + len(topic.encode()) + len(correlation) + len(body))
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
        acquired = 0
        # Without the lock, two tasks could each get a part of the window and wait for the rest.
        async with self._alone_lock:
            try:
                while acquired < self._window_size:
                    await self._window.acquire()
                    acquired += 1
                return await self._send(message)
            finally:
                for _ in range(acquired):
                    self._window.release()

    async def _send(self, message: gmqtt.Message) -> int:
        """Send a message; returns the reason code of its PUBACK. Raises PublishFailed."""
        if self._end_reason is not None:
            raise ConnectionLost(self._end_reason)
        packet_id = self._client.publish(message)
        reason_code = asyncio.get_running_loop().create_future()
        self._unacknowledged[packet_id] = reason_code
        try:
            return await asyncio.wait_for(reason_code, PUBACK_LIMIT_S)
        except asyncio.TimeoutError:
            reason = f"the broker did not acknowledge the message within {PUBACK_LIMIT_S:.0f} s"
            raise PublishFailed(reason) from None
        finally:
            if self._unacknowledged.get(packet_id) is reason_code:
                del self._unacknowledged[packet_id]

    def _check_limits(self, size: int) -> None:
        """Check whether the broker accepts a message of this size, and messages at QoS 1.

        Otherwise raises PublishFailed, since the broker would close the connection.
        """
        limit = self._client.limit("maximum_packet_size", 256 * 1024 * 1024)
        if size > limit:
            raise PublishFailed(
                f"the broker accepts packets of at most {limit} bytes; the message is larger",
                final=True,
            )
        if self._client.limit("max_qos", 2) == 0:
            raise PublishFailed("the broker accepts no messages at QoS 1", final=True)

    def on_puback(self, data: bytes) -> None:
        """Handle a PUBACK packet (MQTT 5, 3.4). A PUBACK of MQTT 3.1.1 has no reason code."""
        reason_code = data[2] if len(data) > 2 else 0
        self._last_was_refused = reason_code >= REFUSED
        waiting = self._unacknowledged.get(int.from_bytes(data[:2], "big"))
        if waiting is not None and not waiting.done():
            waiting.set_result(reason_code)

    def end(self, reason: str, *, closed_by_broker: bool) -> None:
        """Raise ConnectionLost in all waiting `publish` calls, as the connection has ended.

        ``closed_by_broker``: the broker closed the connection, perhaps because of a message. If the
        last PUBACK was a refusal, the refused message is the cause, and not an unacknowledged one:
        Mosquitto 2.0.11 closes the connection after a refusal if its queue is unbounded.
        """
        if self._end_reason is not None:
            return
        self._end_reason = reason
        waiting = [each for each in self._unacknowledged.values() if not each.done()]
        alone = len(waiting) == 1
        self.ended_connection = closed_by_broker and (alone or self._last_was_refused)
        self.may_have_ended_connection = closed_by_broker and (
            bool(waiting) or self._last_was_refused
        )
        for each in waiting:
            error = ConnectionLost(
                reason,
                closed_by_broker=closed_by_broker and not self._last_was_refused,
                alone=alone,
            )
            each.set_exception(error)


def _refusal(reason_code: int) -> str:
    if reason_code == NOT_AUTHORIZED:
        return f"this node's user may not publish on the topic: {in_words(reason_code)}"
    return f"the broker refuses the message: {in_words(reason_code)}"
