"""Messages of ours that the broker has not acknowledged yet: at most as many as it will have."""

from __future__ import annotations

import asyncio
from typing import Any

import gmqtt  # pyright: ignore[reportMissingTypeStubs]
from gmqtt.mqtt.package import PublishPacket  # pyright: ignore[reportMissingTypeStubs]

from fractal_rm.adapters.mqtt.client import said_by_broker, status
from fractal_rm.adapters.mqtt.codes import NOT_AUTHORIZED, PASSING, REFUSED, in_words
from fractal_rm.domain.call_errors import PublishFailed

AT_ONCE = 500
PUBACK_LIMIT_S = 10.0
_HEAD_BYTES = 32  # what a PUBLISH has beside its topic, its correlation data and its body, at most
_packets: Any = PublishPacket


class LinkGone(PublishFailed):
    """The connection ended before the PUBACK.

    ``cut``: the broker ended it after the message had left, so that it may be for the message;
    ``alone``: and nothing else of ours was on its way.
    """

    code = "link-gone"

    def __init__(self, reason: str, *, cut: bool = False, alone: bool = False) -> None:
        super().__init__(reason)
        self.cut = cut
        self.alone = cut and alone


class Outgoing:
    """The messages of one connection; ``client`` is connected from `begin` on."""

    def __init__(self, client: Any, *, mqtt_5: bool) -> None:
        self._client = client
        self._mqtt_5 = mqtt_5
        self._at_once = 1
        self._window = asyncio.Semaphore(1)
        self._one_alone = asyncio.Lock()
        self._waiting: dict[int, asyncio.Future[int]] = {}
        self._ended: str | None = None
        self._refused = False  # the last one that was answered
        self.ended_it = False  # whether it is known which one the broker has ended it for
        self.may_have_ended_it = False  # whether it has for any of them, as far as can be known

    def begin(self) -> None:
        """Take up the broker's Receive Maximum (MQTT 5, 3.2.2.3.3)."""
        self._at_once = min(said_by_broker(self._client, "receive_maximum", 65_535), AT_ONCE)
        self._window = asyncio.Semaphore(self._at_once)

    async def publish(
        self,
        topic: str,
        body: bytes,
        correlation: bytes | None = None,
        *,
        retain: bool = False,
        alone: bool = False,
    ) -> None:
        """Send one at QoS 1, and wait for its PUBACK. Raises PublishFailed.

        ``alone``: while nothing else of ours is on its way.
        """
        if correlation is None or not self._mqtt_5:
            correlation = b""
        self._check_size(_HEAD_BYTES + len(topic.encode()) + len(correlation) + len(body))
        properties: dict[str, Any] = {"correlation_data": correlation} if correlation else {}
        message = gmqtt.Message(topic.encode(), body, qos=1, retain=retain, **properties)
        if alone:
            reason_code = await self._alone(message)
        else:
            async with self._window:
                reason_code = await self._answer(message)
        if reason_code >= REFUSED:
            raise PublishFailed(_refusal(reason_code), final=reason_code not in PASSING)

    async def say(self, topic: str, what: str, *, retain: bool, last: bool = False) -> None:
        """Publish a status. Raises PublishFailed.

        ``last``: nothing is read any more, so that no PUBACK is waited for.
        """
        qos = min(1, said_by_broker(self._client, "max_qos", 1))
        if qos and not last:
            await self.publish(topic, status(what), retain=retain)
            return
        async with self._window:
            self._send(gmqtt.Message(topic, status(what), qos=qos, retain=retain))

    async def _alone(self, message: gmqtt.Message) -> int:
        held = 0
        async with self._one_alone:  # two that fill the window would wait for each other
            try:
                while held < self._at_once:
                    await self._window.acquire()
                    held += 1
                return await self._answer(message)
            finally:
                for _ in range(held):
                    self._window.release()

    async def _answer(self, message: gmqtt.Message) -> int:
        """Send it; the reason code of its PUBACK."""
        if self._ended is not None:
            raise LinkGone(self._ended)
        packet_id = self._send(message)
        acknowledged = asyncio.get_running_loop().create_future()
        self._waiting[packet_id] = acknowledged
        try:
            return await asyncio.wait_for(acknowledged, PUBACK_LIMIT_S)
        except asyncio.TimeoutError:
            why = f"the broker did not acknowledge it within {PUBACK_LIMIT_S:.0f} s"
            raise PublishFailed(why) from None
        finally:
            if self._waiting.get(packet_id) is acknowledged:
                del self._waiting[packet_id]

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
        packet_id, packet = _packets.build_package(message, connection._protocol)  # noqa: SLF001
        connection.send_package(packet)
        return packet_id

    def on_puback(self, data: bytes) -> None:
        """A PUBACK packet came (MQTT 5, 3.4); in MQTT 3.1.1 it has no reason code."""
        reason_code = data[2] if len(data) > 2 else 0
        self._refused = reason_code >= REFUSED
        waiting = self._waiting.get(int.from_bytes(data[:2], "big"))
        if waiting is not None and not waiting.done():
            waiting.set_result(reason_code)

    def end(self, reason: str, *, cut: bool) -> None:
        """The connection is gone; ``cut``: by the broker, perhaps for what was sent.

        Right after a refusal it is for that, and for none of those that have no answer yet:
        Mosquitto 2.0.11 does so where it queues without a bound.
        """
        if self._ended is not None:
            return
        self._ended = reason
        waiting = [each for each in self._waiting.values() if not each.done()]
        alone = len(waiting) == 1
        self.ended_it = cut and (alone or self._refused)
        self.may_have_ended_it = cut and (bool(waiting) or self._refused)
        for each in waiting:
            each.set_exception(LinkGone(reason, cut=cut and not self._refused, alone=alone))


def _refusal(reason_code: int) -> str:
    if reason_code == NOT_AUTHORIZED:
        return f"the broker does not let this user publish there: {in_words(reason_code)}"
    return f"the broker refuses it: {in_words(reason_code)}"
