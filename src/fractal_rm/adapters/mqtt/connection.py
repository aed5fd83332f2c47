"""One connection to the broker, from CONNECT to the end of the connection.

    new ──open──> open ──lost, refused, dead, close──> closed

A `Connection` is used once: each connect and reconnect makes a new object. So a PUBACK is sent only
on the connection on which its message was received. On another connection, its packet id may belong
to another message. If the connection has ended, the broker sends the message again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, NamedTuple

from fractal_rm.adapters.mqtt.acknowledged import AcknowledgedMessages
from fractal_rm.adapters.mqtt.client import Client, Target
from fractal_rm.adapters.mqtt.connect_options import ConnectResult, connect_result
from fractal_rm.adapters.mqtt.errors import ConnectionLost, NotConnected
from fractal_rm.adapters.mqtt.incoming import IncomingMessages
from fractal_rm.adapters.mqtt.keepalive import KeepAlive
from fractal_rm.adapters.mqtt.node_status import NodeStatus
from fractal_rm.adapters.mqtt.outgoing import OutgoingMessages
from fractal_rm.adapters.mqtt.packet_protocol import CONNACK, PUBACK, PacketProtocol
from fractal_rm.adapters.mqtt.packets import BEGINNING_BYTES, Packets
from fractal_rm.adapters.mqtt.reason_codes import REFUSED, TAKEN_OVER, in_words, may_concern_message
from fractal_rm.adapters.mqtt.receiver import Receiver
from fractal_rm.adapters.mqtt.subscriptions import Subscriptions
from fractal_rm.adapters.mqtt.unsupported import unsupported_features
from fractal_rm.domain.call_errors import ConnectFailed, PublishFailed
from fractal_rm.domain.topic import name_fault
from fractal_rm.engine.ports import Telemetry

OPEN_LIMIT_S = 10.0  # the time limit until the SUBACK, including connecting and the CONNACK
SETTLE_LIMIT_S = 2.0
CLOSE_LIMIT_S = 2.0
_CLOSED_HERE = "closed by this node"


class ConnectionEnd(NamedTuple):
    """How a connection ended.

    ``closed_by_broker``: the broker closed it, perhaps because of a packet that we sent.
    """

    reason: str
    closed_by_broker: bool


class Connection:
    """A connection to a broker. ``closed`` is a future, done when the connection has ended."""

    def __init__(
        self,
        target: Target,
        receiver: Receiver,
        acknowledged: AcknowledgedMessages,
        telemetry: Telemetry,
    ) -> None:
        self._target = target
        mqtt, mqtt_5 = target.mqtt, target.options.mqtt_5
        loop = asyncio.get_running_loop()
        self.closed: asyncio.Future[ConnectionEnd] = loop.create_future()
        self.opened_s = loop.time()
        self._connack: int | None = None
        self._client = client = Client(target, self._on_disconnect)
        self._outgoing = OutgoingMessages(client, mqtt_5=mqtt_5)
        self.status = NodeStatus(target, client, self._outgoing, telemetry)
        self.subscriptions = Subscriptions(mqtt, client, self._wait_unless_closed, mqtt_5=mqtt_5)
        self._packet_protocol = PacketProtocol(
            client,
            Packets(lambda: receiver.max_body_bytes() + BEGINNING_BYTES),
            {CONNACK: self._on_connack, PUBACK: self._outgoing.on_puback},
            self._on_broken,
        )
        self._incoming = IncomingMessages(
            mqtt, receiver, self._packet_protocol, self._send_pubacks, acknowledged, telemetry,
            mqtt_5=mqtt_5,
        )  # fmt: skip
        self._packet_protocol.on_publish = self._incoming.on_publish
        self._keepalive = KeepAlive(client, mqtt.keepalive, self._reads_packets, self._on_silence)

    @property
    def mqtt_version(self) -> str:
        """The version of MQTT, as text."""
        return "5" if self._target.options.mqtt_5 else "3.1.1"

    @property
    def connected(self) -> bool:
        """Whether the CONNACK was received and the connection has not ended."""
        return not self.closed.done() and self._client.connected

    @property
    def resumed(self) -> bool:
        """Whether the broker has resumed our session."""
        return self._incoming.redelivery.resumed

    @property
    def unacknowledged(self) -> int:
        """How many received messages are unacknowledged."""
        return self._incoming.unacknowledged.count

    @property
    def reading_paused(self) -> bool:
        """Whether reading is paused because too many messages are unacknowledged."""
        return self._packet_protocol.paused

    @property
    def ended_by_message(self) -> bool:
        """Whether the broker certainly closed the connection because of a message that we sent."""
        return self._outgoing.ended_connection

    @property
    def perhaps_ended_by_message(self) -> bool:
        """Whether the broker may have closed the connection because of a message that we sent."""
        return self._outgoing.may_have_ended_connection

    def unsupported(self) -> list[str]:
        """The features that the broker does not support, each with the effect on this node."""
        return unsupported_features(self._target, self._client, self.status, self.subscriptions)

    # --- open and close -----------------------------------------------------------------------

    async def open(self, *, with_identifier: bool = False) -> None:
        """Connect, and subscribe to the trigger topic. Raises NotConnected.

        ``with_identifier``: see `Subscriptions.subscribe_to_triggers`.
        """
        self._keepalive.check()
        try:
            await asyncio.wait_for(self._connect_and_subscribe(with_identifier), OPEN_LIMIT_S)
        except NotConnected:
            self.abort()
            raise
        except asyncio.TimeoutError:
            self.abort()
            reason = f"the broker did not answer within {OPEN_LIMIT_S:.0f} s"
            raise NotConnected(reason, self._result) from None
        except (ConnectFailed, OSError, ValueError) as error:
            self.abort()
            raise NotConnected(str(error) or type(error).__name__, self._result) from error
        self.opened_s = asyncio.get_running_loop().time()
        self._keepalive.check()  # now with the broker's keepalive

    async def _connect_and_subscribe(self, with_identifier: bool) -> None:
        await self._wait_unless_closed(self._client.connect(self._packet_protocol))
        self._outgoing.begin()
        await self.subscriptions.subscribe_to_triggers(with_identifier=with_identifier)
        self._incoming.unacknowledged.set_max_count(self._target.mqtt.receive_maximum)
        self.status.publish_online()

    @property
    def _result(self) -> ConnectResult:
        """The result of the CONNECT packet."""
        if not self._packet_protocol.connect_sent:
            return ConnectResult.NOT_SENT
        return connect_result(self._connack, mqtt_5=self._target.options.mqtt_5)

    async def _wait_unless_closed(self, step: Awaitable[Any]) -> Any:
        """Wait for a step of opening, or for the end of the connection. Raises NotConnected."""
        done = asyncio.ensure_future(step)
        # If this coroutine is cancelled, nobody else retrieves the exception.
        done.add_done_callback(_retrieve_exception)
        try:
            await asyncio.wait((done, self.closed), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            done.cancel()
            raise
        if done.done():
            return done.result()
        while not done.done():  # before Python 3.12, wait_for may ignore the cancellation
            done.cancel()
            await asyncio.sleep(0)
        reason, closed_by_broker = self.closed.result()
        closed_by_broker = closed_by_broker and not self._outgoing.may_have_ended_connection
        raise NotConnected(reason, self._result, closed_by_broker=closed_by_broker)

    async def close(self) -> None:
        """Acknowledge messages that are being written, publish the status, and disconnect.

        The broker does not publish the will after a DISCONNECT.
        """
        if self.connected:
            await self._incoming.unacknowledged.finish(SETTLE_LIMIT_S)
        else:
            await self.settle()
        if self.connected and self.status.published:
            await self.status.publish_stopped(CLOSE_LIMIT_S)
        if self.connected:
            self._end(_CLOSED_HERE)
            with suppress(asyncio.TimeoutError, OSError):  # `abort` closes the socket in any case
                self._client.disconnect()
                await asyncio.wait_for(self._packet_protocol.wait_for_end(), CLOSE_LIMIT_S)
        self.abort()

    def abort(self) -> None:
        """Close the connection at once."""
        self._end(_CLOSED_HERE)
        self._client.abort()

    def _end(self, reason: str, *, closed_by_broker: bool = False) -> None:
        self._keepalive.stop()
        self._incoming.unacknowledged.stop_offering()
        self._outgoing.end(reason, closed_by_broker=closed_by_broker)
        if not self.closed.done():
            self._incoming.redelivery.end(without_connack=self._result is ConnectResult.SILENCE)
            self.closed.set_result(ConnectionEnd(reason, closed_by_broker))

    async def settle(self) -> None:
        """Wait up to `SETTLE_LIMIT_S` for messages that were being written at the end."""
        await self._incoming.unacknowledged.settle(SETTLE_LIMIT_S)

    async def publish(
        self, topic: str, body: bytes, correlation: bytes | None = None, *, alone: bool = False
    ) -> None:
        """Publish at QoS 1, and wait for the PUBACK (`OutgoingMessages`). Raises PublishFailed."""
        fault = name_fault(topic)
        if fault:
            reason = f"nothing can be published on {topic!r:.60}: {fault.why}"
            raise PublishFailed(reason, final=True)
        if not self.connected:
            raise ConnectionLost("no broker is connected")
        await self._outgoing.publish(topic, body, correlation, alone=alone)

    # --- called by the other parts of the connection ------------------------------------------

    def _send_pubacks(self, packets: bytes) -> None:
        if not self.closed.done():
            self._client.send(packets)

    def _reads_packets(self) -> bool:
        """Whether packets are read now, so that a silent broker is noticed by the keepalive.

        Before the CONNACK, the keepalive is not used: `OPEN_LIMIT_S` is the time limit.
        """
        return not self._packet_protocol.paused and self._connack is not None

    def _on_silence(self, reason: str) -> None:
        self._end(reason)
        self.abort()

    def _on_connack(self, data: bytes) -> None:
        """Read the session present flag and the reason code (MQTT 5, 3.2.2).

        In MQTT 5, properties follow.
        """
        session_present, code = data[0] & 1, data[1]
        # A CONNACK without properties means that the broker has read our CONNECT as MQTT 3.1.1.
        if self._target.options.mqtt_5 and code == 0 and len(data) == 2:
            code = 1
        self._connack = code
        if code:
            self._end(f"the broker refuses the connection: {in_words(code)}")
            self.abort()
            return
        self._incoming.redelivery.begin(
            resumed=bool(session_present), mqtt_5=self._target.options.mqtt_5
        )

    def _on_broken(self, reason: str) -> None:
        self._end(f"the broker does not speak MQTT: {reason}")
        self.abort()

    def _on_disconnect(self, packet: bytes | Exception) -> None:
        """See `Client`."""
        if isinstance(packet, Exception):
            self._on_broken("a CONNACK with an unknown property")
            return
        code = packet[0] if packet else 0
        if code == TAKEN_OVER:
            self._end(in_words(code))
        elif code >= REFUSED:
            reason = f"the broker closed the connection: {in_words(code)}"
            self._end(reason, closed_by_broker=may_concern_message(code))
        elif self._connack is None:
            closed = f"the broker closed the connection after a CONNECT of MQTT {self.mqtt_version}"
            self._end(self._packet_protocol.tls_refusal or closed)
        else:
            self._end("the broker closed the connection", closed_by_broker=True)


def _retrieve_exception(step: asyncio.Future[Any]) -> None:
    if not step.cancelled():
        step.exception()
