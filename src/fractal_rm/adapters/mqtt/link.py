"""One connection to the broker, from CONNECT to its end.

    new ──open──> open ──lost, refused, dead, close──> closed

A link is used once: every connect is a new one, the first like the hundredth. So an answer that
comes late goes to the connection on which its message came, which is gone, and the broker sends
the message again (an acknowledgement never reaches another connection).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import gmqtt  # pyright: ignore[reportMissingTypeStubs]

from fractal_rm.adapters.connect import Connector
from fractal_rm.adapters.mqtt.client import LinkFailed, connect, new_client, status, wants_older
from fractal_rm.adapters.mqtt.outgoing import Outgoing
from fractal_rm.adapters.mqtt.packets import BEGINNING_BYTES, Packet, Packets
from fractal_rm.adapters.mqtt.publish_packet import read_publish, topic_field
from fractal_rm.adapters.mqtt.subscriptions import Subscriptions
from fractal_rm.adapters.mqtt.unanswered import Take, Unanswered
from fractal_rm.adapters.mqtt.wire import Wire
from fractal_rm.config.model import Mqtt
from fractal_rm.domain.errors import ConnectFailed, PublishFailed
from fractal_rm.domain.topic import name_fault

OPEN_LIMIT_S = 10.0  # for connecting, CONNACK and SUBACK together
ANSWER_LIMIT_S = 2.0
CLOSE_LIMIT_S = 2.0
PUBLISH_LIMIT_S = 10.0
DEAD_AFTER_KEEPALIVES = 1.4
TAKEN_OVER = 0x8E  # MQTT 5, 4.13: another client with the same id has connected


class Link:
    """``take`` and ``wait_for_room`` are for `Unanswered`, ``connector`` opens the connection.

    ``longest_body`` tells how many bytes a body may have; of longer ones the beginning is read.
    """

    def __init__(
        self,
        mqtt: Mqtt,
        client_id: str,
        take: Take,
        wait_for_room: Callable[[], Awaitable[int]],
        longest_body: Callable[[], int],
        connector: Connector,
        *,
        older: bool,
    ) -> None:
        self._mqtt = mqtt
        self._connector = connector
        self._loop = loop = asyncio.get_running_loop()
        self._mqtt_5 = not older
        self.status_topic = f"fractal-rm/{client_id}/status"
        self.closed: asyncio.Future[str] = loop.create_future()
        self._own = topic_field(mqtt.topic)
        self._watch: asyncio.TimerHandle | None = None
        self._client = new_client(mqtt, client_id, self.status_topic)
        self._client.on_disconnect = self._on_disconnect
        self._outgoing = Outgoing(self._client, mqtt_5=not older)
        self.subscriptions = Subscriptions(
            mqtt, self._client, self._unless_closed, mqtt_5=not older
        )
        packets = Packets(lambda: longest_body() + BEGINNING_BYTES)
        self._wire = wire = Wire(
            self._client, packets, self._on_publish, self._outgoing.on_puback, self._on_broken
        )
        self._unanswered = Unanswered(
            take, wait_for_room, mqtt.receive_maximum, wire, self._send_acknowledgements
        )

    @property
    def protocol(self) -> str:
        """The version of MQTT that is spoken."""
        return "5" if self._mqtt_5 else "3.1.1"

    # --- open and close -----------------------------------------------------------------------

    async def open(self, *, numbered: bool = False) -> None:
        """Connect and subscribe to triggers; see `Subscriptions.begin`. Raises LinkFailed."""
        try:
            await asyncio.wait_for(self._connect_and_subscribe(numbered), OPEN_LIMIT_S)
        except LinkFailed:
            self.abort()
            raise
        except asyncio.TimeoutError:
            self.abort()
            raise LinkFailed(f"the broker did not answer within {OPEN_LIMIT_S:.0f} s") from None
        except (ConnectFailed, OSError, ValueError, gmqtt.MQTTConnectError) as error:
            self.abort()
            raise LinkFailed(str(error) or type(error).__name__) from error
        self._beat()

    async def _connect_and_subscribe(self, numbered: bool) -> None:
        connecting = connect(
            self._client, self._connector, self._mqtt, self._wire, mqtt_5=self._mqtt_5
        )
        await self._unless_closed(connecting)
        self._outgoing.begin()
        await self.subscriptions.begin(numbered=numbered)
        self.say("online")

    async def _unless_closed(self, step: Awaitable[Any]) -> Any:
        """Wait for a step of opening, or for the end of the connection. Raises LinkFailed."""
        done = asyncio.ensure_future(step)
        done.add_done_callback(_looked_at)  # whoever waited may have been cancelled meanwhile
        await asyncio.wait((done, self.closed), return_when=asyncio.FIRST_COMPLETED)
        if done.done():
            return done.result()
        done.cancel()
        older = self._mqtt_5 and wants_older(self._client)
        raise LinkFailed(self.closed.result(), older=older)

    # --- messages of ours ---------------------------------------------------------------------

    async def publish(self, topic: str, body: bytes, *, correlation: bytes | None = None) -> None:
        """Publish at QoS 1, and wait for the PUBACK. Raises PublishFailed."""
        fault = name_fault(topic)
        if fault:
            why = f"nothing can be published on {topic!r:.60}: {fault.why}"
            raise PublishFailed(why, final=True)
        if not self._connected():
            raise PublishFailed("no broker is connected")
        try:
            await asyncio.wait_for(
                self._outgoing.publish(topic, body, correlation), PUBLISH_LIMIT_S
            )
        except asyncio.TimeoutError:
            why = f"the broker did not acknowledge it within {PUBLISH_LIMIT_S:.0f} s"
            raise PublishFailed(why) from None

    # --- the end ------------------------------------------------------------------------------

    async def close(self) -> None:
        """Answer what was read, and say goodbye, so that the broker does not publish the will."""
        if self._connected():
            await self._unanswered.finish(ANSWER_LIMIT_S)
        if self._connected():
            self.say("stopped")
            with suppress(asyncio.TimeoutError, OSError):  # `abort` sees to the rest
                await asyncio.wait_for(self._client.disconnect(), CLOSE_LIMIT_S)
        self.abort()

    def _connected(self) -> bool:
        """Since the CONNACK, until the end."""
        client = self._client
        return not self.closed.done() and client._connection is not None and client.is_connected  # noqa: SLF001

    def abort(self) -> None:
        """Cut the connection, whatever is in it."""
        self._end("closed on our side")
        connection = self._client._connection  # noqa: SLF001 - disconnect() waits for the other side
        if connection is not None:
            connection._transport.abort()  # noqa: SLF001

    def _end(self, reason: str) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._unanswered.let_go()
        self._outgoing.end(reason)
        if not self.closed.done():
            self.closed.set_result(reason)

    def say(self, what: str) -> None:
        """Publish this node's status, retained, for whoever watches over it."""
        self._client.publish(self.status_topic, status(what), qos=1, retain=True)

    # --- a dead link --------------------------------------------------------------------------

    def _beat(self) -> None:
        """After a keepalive without news gmqtt sends a ping; no answer means: dead (G10)."""
        loop = self._loop
        if self.closed.done():
            return
        connection = self._client._connection  # noqa: SLF001
        keepalive_s = connection.keepalive or self._mqtt.keepalive
        if self._wire.held:  # it is we who do not listen
            connection._last_data_in = loop.time()  # noqa: SLF001
        silent_s = loop.time() - connection._last_data_in  # noqa: SLF001 - of the same clock
        if silent_s > DEAD_AFTER_KEEPALIVES * keepalive_s:
            self._end(f"the broker has been silent for {silent_s:.0f} s")
            self.abort()
            return
        self._watch = loop.call_later(keepalive_s / 16, self._beat)

    # --- what the wire and gmqtt call ---------------------------------------------------------

    def _on_publish(self, packet: Packet) -> None:
        packet_id, message = read_publish(packet, mqtt_5=self._mqtt_5, own=self._own)
        self._unanswered.add(packet_id, message)

    def _send_acknowledgements(self, packets: bytes) -> None:
        if not self.closed.done():
            self._client._connection.send_package(packets)  # noqa: SLF001

    def _on_broken(self, reason: str) -> None:
        self._end(f"the broker does not speak MQTT: {reason}")
        self.abort()

    def _on_disconnect(self, _client: Any, packet: Any, _error: Any = None) -> None:
        taken_over = isinstance(packet, bytes) and packet[:1] == bytes([TAKEN_OVER])
        self._end(
            "another client has connected under the same client id"
            if taken_over
            else "the broker closed the connection"
        )


def _looked_at(step: asyncio.Future[Any]) -> None:
    if not step.cancelled():
        step.exception()
