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

from fractal_rm.adapters.mqtt.answered import DUP, Answered
from fractal_rm.adapters.mqtt.client import LinkFailed, To, connect, new_client, said_by_broker
from fractal_rm.adapters.mqtt.codes import NOT_OURS, REFUSED, TAKEN_OVER, in_words
from fractal_rm.adapters.mqtt.connect_options import Answer, answer_of
from fractal_rm.adapters.mqtt.outgoing import LinkGone, Outgoing
from fractal_rm.adapters.mqtt.packets import BEGINNING_BYTES, Packet, Packets
from fractal_rm.adapters.mqtt.publish_packet import own_field, read_publish
from fractal_rm.adapters.mqtt.redelivery import Redelivery
from fractal_rm.adapters.mqtt.subscriptions import Subscriptions
from fractal_rm.adapters.mqtt.unanswered import Take, Unanswered
from fractal_rm.adapters.mqtt.wire import CONNACK, PUBACK, Wire
from fractal_rm.domain.call_errors import ConnectFailed, PublishFailed
from fractal_rm.domain.topic import name_fault, status_topic
from fractal_rm.engine.ports import Telemetry

OPEN_LIMIT_S = 10.0  # for connecting, CONNACK and SUBACK together
ANSWER_LIMIT_S = 2.0
CLOSE_LIMIT_S = 2.0
_CLOSED_HERE = "closed on our side"
PING_AFTER_KEEPALIVES = 0.7  # gmqtt may take 1.3, and NATS servers end one of 1 s after that
DEAD_AFTER_KEEPALIVES = 1.4


class Link:
    """``take`` and ``wait_for_room`` are for `Unanswered`.

    ``longest_body`` tells how many bytes a body may have; of longer ones the beginning is read.
    ``answered`` goes on from one connection to the next.
    """

    def __init__(
        self,
        to: To,
        take: Take,
        wait_for_room: Callable[[], Awaitable[int]],
        longest_body: Callable[[], int],
        answered: Answered,
        telemetry: Telemetry,
    ) -> None:
        self._to = to
        self._mqtt = mqtt = to.mqtt
        self._mqtt_5 = to.options.mqtt_5
        self._loop = loop = asyncio.get_running_loop()
        self._telemetry = telemetry
        self.closed: asyncio.Future[str] = loop.create_future()
        self.opened_s = loop.time()
        self._connack: int | None = None
        self._cut = False
        self._own = own_field(mqtt.topic)
        self._watch: asyncio.TimerHandle | None = None
        self._client = new_client(to)
        self._client.on_disconnect = self._on_disconnect
        self._outgoing = Outgoing(self._client, mqtt_5=self._mqtt_5)
        self._saying: asyncio.Task[None] | None = None
        self.status_taken = self.status_refused = self.cut_by_status = False
        self.subscriptions = Subscriptions(
            mqtt, self._client, self._unless_closed, mqtt_5=self._mqtt_5
        )
        packets = Packets(lambda: longest_body() + BEGINNING_BYTES)
        seen = {CONNACK: self._on_connack, PUBACK: self._outgoing.on_puback}
        self._wire = wire = Wire(self._client, packets, self._on_publish, seen, self._on_broken)
        self._unanswered = Unanswered(
            take, wait_for_room, mqtt.receive_maximum, wire, self._send_acknowledgements, answered
        )
        self._redelivery = Redelivery(answered, self._unanswered, self._came_again)

    @property
    def protocol(self) -> str:
        """The version of MQTT that is spoken."""
        return "5" if self._mqtt_5 else "3.1.1"

    @property
    def connected(self) -> bool:
        """From the CONNACK until the end."""
        client = self._client
        return not self.closed.done() and client._connection is not None and client.is_connected  # noqa: SLF001

    @property
    def resumed(self) -> bool:
        """Whether the broker had kept our session."""
        return self._redelivery.session

    @property
    def ended_by_ours(self) -> bool:
        """Whether the broker has ended it for a message of ours, as far as can be known."""
        return self._outgoing.ended_it

    @property
    def perhaps_ended_by_ours(self) -> bool:
        """Whether the broker may have ended it for a message of ours."""
        return self._outgoing.may_have_ended_it

    # --- open and close -----------------------------------------------------------------------

    async def open(self, *, numbered: bool = False) -> None:
        """Connect and subscribe to triggers; see `Subscriptions.begin`. Raises LinkFailed."""
        self._beat()
        try:
            await asyncio.wait_for(self._connect_and_subscribe(numbered), OPEN_LIMIT_S)
        except LinkFailed:
            self.abort()
            raise
        except asyncio.TimeoutError:
            self.abort()
            why = f"the broker did not answer within {OPEN_LIMIT_S:.0f} s"
            raise LinkFailed(why, self._answer) from None
        except (ConnectFailed, OSError, ValueError) as error:
            self.abort()
            raise LinkFailed(str(error) or type(error).__name__, self._answer) from error
        self.opened_s = self._loop.time()
        self._beat()  # by the broker's keepalive

    async def _connect_and_subscribe(self, numbered: bool) -> None:
        await self._unless_closed(connect(self._client, self._to, self._wire))
        self._outgoing.begin()
        await self.subscriptions.begin(numbered=numbered)
        self._unanswered.count()
        if self._to.options.status:
            self._saying = self._loop.create_task(self._say_online())

    @property
    def _answer(self) -> Answer:
        """What has come of the CONNECT."""
        if not self._wire.opened:
            return Answer.NONE
        return answer_of(self._connack, mqtt_5=self._mqtt_5)

    async def _unless_closed(self, step: Awaitable[Any]) -> Any:
        """Wait for a step of opening, or for the end of the connection. Raises LinkFailed."""
        done = asyncio.ensure_future(step)
        done.add_done_callback(_looked_at)  # whoever waited may have been cancelled meanwhile
        try:
            await asyncio.wait((done, self.closed), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            done.cancel()
            raise
        if done.done():
            return done.result()
        while not done.done():  # wait_for may swallow a cancellation (Python before 3.12)
            done.cancel()
            await asyncio.sleep(0)
        alone = self._cut and not self._outgoing.may_have_ended_it
        raise LinkFailed(self.closed.result(), self._answer, cut=alone)

    async def close(self) -> None:
        """Answer what was read, and say goodbye, so that the broker does not publish the will."""
        if self.connected:
            await self._unanswered.finish(ANSWER_LIMIT_S)
        else:
            await self.settle()
        if self.connected and self._says_status:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._say("stopped", last=True), CLOSE_LIMIT_S)
        if self.connected:
            self._end(_CLOSED_HERE)
            with suppress(asyncio.TimeoutError, OSError):  # `abort` sees to the rest
                self._client._connection.send_disconnect()  # noqa: SLF001 - disconnect() closes at once
                await asyncio.wait_for(self._wire.wait_for_end(), CLOSE_LIMIT_S)
        self.abort()

    def abort(self) -> None:
        """Cut the connection, whatever is in it."""
        self._end(_CLOSED_HERE)
        connection = self._client._connection  # noqa: SLF001 - disconnect() waits for the other side
        if connection is not None:
            connection._transport.abort()  # noqa: SLF001

    def _end(self, reason: str, *, cut: bool = False) -> None:
        """``cut``: the broker has ended it, perhaps for what we have sent."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._unanswered.let_go()
        self._outgoing.end(reason, cut=cut)
        if not self.closed.done():
            self._redelivery.end(silent=self._answer is Answer.SILENCE)
            self._cut = cut
            self.closed.set_result(reason)

    async def settle(self) -> None:
        """Wait until all that came by this link, which has ended, is durable or let go."""
        await self._unanswered.settle(ANSWER_LIMIT_S)

    # --- messages of ours ---------------------------------------------------------------------

    async def publish(
        self, topic: str, body: bytes, correlation: bytes | None = None, *, alone: bool = False
    ) -> None:
        """Publish at QoS 1, and wait for the PUBACK; see `Outgoing`. Raises PublishFailed."""
        fault = name_fault(topic)
        if fault:
            why = f"nothing can be published on {topic!r:.60}: {fault.why}"
            raise PublishFailed(why, final=True)
        if not self.connected:
            raise LinkGone("no broker is connected")
        await self._outgoing.publish(topic, body, correlation, alone=alone)

    async def _say(self, what: str, *, last: bool = False) -> None:
        """Publish this node's status, for whoever watches over it; see `Outgoing.say`."""
        topic = status_topic(self._to.client_id)
        await self._outgoing.say(topic, what, retain=self._retains, last=last)

    async def _say_online(self) -> None:
        try:
            await self._say("online")
        except LinkGone as gone:
            self.cut_by_status = gone.alone
        except PublishFailed as error:
            self.status_refused = error.final
            self._telemetry.problem("status_refused", reason=str(error))
        else:
            self.status_taken = True

    async def wait_said(self) -> None:
        """Wait, after the end, until it is known what has become of this node's status."""
        if self._saying is not None:
            await asyncio.wait((self._saying,))

    @property
    def _says_status(self) -> bool:
        return self._to.options.status and not self.status_refused

    @property
    def _retains(self) -> bool:
        """Whether the broker has retained messages (MQTT 5, 3.2.2.3.5)."""
        return self._to.options.retain and said_by_broker(self._client, "retain_available", 1) == 1

    def lacks(self) -> list[str]:
        """What the broker does not have, and what that means here."""
        lacks: list[str] = []
        if not self._says_status:
            lacks.append("a place for this node's status, beside its will")
        elif not self._retains:
            retained = "; mqtt.retained has no effect" if self._mqtt.retained else ""
            lacks.append(f"retained messages: this node's status is heard only live{retained}")
        if not self._to.options.qos or said_by_broker(self._client, "max_qos", 2) == 0:
            lacks.append("QoS 1: a trigger that it loses is lost, and nothing can be published")
        elif self.subscriptions.at_qos_0:
            lacks.append("QoS 1 for what this user subscribes to: a trigger that it loses is lost")
        if not self._mqtt_5 and self.subscriptions.shared:
            lacks.append("MQTT 5, so whether subscriptions can be shared is not known")
        return lacks

    # --- a dead link --------------------------------------------------------------------------

    def _beat(self) -> None:
        """Before a keepalive without news is over, ping; no answer means: dead (G10)."""
        loop = self._loop
        if self._watch is not None:
            self._watch.cancel()
        if self.closed.done():
            return
        keepalive_s = self._mqtt.keepalive
        connection = self._client._connection  # noqa: SLF001
        if connection is not None:
            keepalive_s = connection.keepalive or keepalive_s
            if self._wire.held or self._connack is None:  # we do not listen; `open` has a limit
                connection._last_data_in = loop.time()  # noqa: SLF001
            silent_s = loop.time() - connection._last_data_in  # noqa: SLF001 - of the same clock
            if silent_s > DEAD_AFTER_KEEPALIVES * keepalive_s:
                self._end(f"the broker has been silent for {silent_s:.0f} s")
                self.abort()
                return
            quiet_s = loop.time() - connection._last_data_out  # noqa: SLF001
            if self.connected and quiet_s > PING_AFTER_KEEPALIVES * keepalive_s:
                connection._last_data_out = loop.time()  # noqa: SLF001
                connection._send_ping_request()  # noqa: SLF001
        self._watch = loop.call_later(keepalive_s / 16, self._beat)

    # --- what the wire and gmqtt call ---------------------------------------------------------

    def _on_publish(self, packet: Packet) -> None:
        packet_id, message = read_publish(packet, mqtt_5=self._mqtt_5, own=self._own)
        redelivery = self._redelivery
        asked = packet.first & DUP or redelivery.going_on
        if not (asked and redelivery.settles(packet, packet_id, message)):
            self._unanswered.add(packet_id, message)

    def _came_again(self, redelivery: Redelivery) -> None:
        tell = self._telemetry.problem if redelivery.in_doubt else self._telemetry.event
        tell(
            "mqtt_came_again",
            messages=redelivery.again,
            known=redelivery.known,
            may_run_twice=redelivery.in_doubt,
        )

    def _send_acknowledgements(self, packets: bytes) -> None:
        if not self.closed.done():
            self._client._connection.send_package(packets)  # noqa: SLF001

    def _on_connack(self, data: bytes) -> None:
        """Session present and the reason code (MQTT 5, 3.2.2), and in MQTT 5 its properties."""
        session, code = data[0] & 1, data[1]
        if self._mqtt_5 and code == 0 and len(data) == 2:  # it has read our CONNECT as 3.1.1
            code = 1
        self._connack = code
        if code:
            self._end(f"the broker refuses the connection: {in_words(code)}")
            self.abort()
            return
        self._redelivery.begin(session=bool(session), mqtt_5=self._mqtt_5)

    def _on_broken(self, reason: str) -> None:
        self._end(f"the broker does not speak MQTT: {reason}")
        self.abort()

    def _on_disconnect(self, _client: Any, packet: Any, _error: Any = None) -> None:
        """The connection has ended; ``packet`` is a DISCONNECT of MQTT 5, or empty.

        It is an exception where gmqtt cannot read the properties of the CONNACK.
        """
        if isinstance(packet, Exception):
            self._on_broken("a CONNACK with a property that it does not have")
            return
        code = packet[0] if isinstance(packet, bytes) and packet else 0
        if code == TAKEN_OVER:
            self._end(in_words(code))
        elif code >= REFUSED:
            why = f"the broker closed the connection: {in_words(code)}"
            self._end(why, cut=code not in NOT_OURS)
        elif self._connack is None:
            closed = f"the broker closed the connection at a CONNECT of MQTT {self.protocol}"
            self._end(self._wire.refused or closed)
        else:
            self._end("the broker closed the connection", cut=True)


def _looked_at(step: asyncio.Future[Any]) -> None:
    if not step.cancelled():
        step.exception()
