"""One connection to the broker, from CONNECT to its end.

    new ──open──> open ──lost, refused, dead, close──> closed

A link is used once: every connect is a new one, the first like the hundredth. So an answer that
comes late goes to the connection on which its message came, which is gone, and the broker sends
the message again (an acknowledgement never reaches another connection).

gmqtt would reconnect by itself, notices a dead link only after two keepalives, and does not say
which protocol it settled for; the few private names that are used here are for that. Nothing
outside this folder knows gmqtt.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gmqtt  # pyright: ignore[reportMissingTypeStubs]
from gmqtt.mqtt.connection import MQTTConnection  # pyright: ignore[reportMissingTypeStubs]
from gmqtt.mqtt.constants import MQTTv50, MQTTv311  # pyright: ignore[reportMissingTypeStubs]
from gmqtt.mqtt.package import PublishPacket  # pyright: ignore[reportMissingTypeStubs]

from fractal_rm.adapters.connect import Connector
from fractal_rm.adapters.mqtt.outgoing import Outgoing
from fractal_rm.adapters.mqtt.packets import BEGINNING_BYTES, Packet, Packets
from fractal_rm.adapters.mqtt.publish_packet import read_publish, topic_field
from fractal_rm.adapters.mqtt.unanswered import Take, Unanswered
from fractal_rm.adapters.mqtt.wire import Wire
from fractal_rm.config.model import Mqtt
from fractal_rm.config.regular_file import stat_regular
from fractal_rm.domain.call import Tls
from fractal_rm.domain.errors import ConnectFailed, PublishFailed
from fractal_rm.domain.topic import subscription_identifier, topic_fault

OPEN_LIMIT_S = 10.0  # for connecting, CONNACK and SUBACK together
CONNECT_LIMIT_S = 8.0  # of them: its end must not hide what was tried
ANSWER_LIMIT_S = 2.0
CLOSE_LIMIT_S = 2.0
PUBLISH_LIMIT_S = 10.0
REFUSED = 0x80  # a reason code of that or more (MQTT 5, 2.4); in 3.1.1 a SUBACK has it too
_HEAD_BYTES = 32  # what a PUBLISH has beside its topic, its correlation data and its body, at most
DEAD_AFTER_KEEPALIVES = 1.4
TAKEN_OVER = 0x8E  # MQTT 5, 4.13: another client with the same id has connected
_NEVER_BY_ITSELF = -2
_packets: Any = PublishPacket
# gmqtt's own words about connections would double ours; its faults are worth a line.
_log = logging.getLogger("gmqtt.link")
_log.addFilter(lambda record: record.exc_info is not None)


class LinkFailed(Exception):
    """There is no connection, and why. ``older``: the broker wants MQTT 3.1.1."""

    def __init__(self, reason: str, *, older: bool = False) -> None:
        super().__init__(reason)
        self.older = older


class Link:
    """``take`` and ``wait_for_room`` are for `Unanswered`, ``connector`` opens the connection.

    ``longest_body`` tells how many bytes a body may have; of longer ones the beginning is read.
    """

    def __init__(
        self,
        mqtt: Mqtt,
        client_id: str,
        take: Take,
        wait_for_room: Callable[[], Awaitable[None]],
        longest_body: Callable[[], int],
        connector: Connector,
        *,
        older: bool,
    ) -> None:
        self._mqtt = mqtt
        self._loop = loop = asyncio.get_running_loop()
        self.status_topic = f"fractal-rm/{client_id}/status"
        self.protocol = "3.1.1" if older else "5"
        self.closed: asyncio.Future[str] = loop.create_future()
        self._connector = connector
        self._own = topic_field(mqtt.topic)
        self._asking = asyncio.Lock()
        self._answer: asyncio.Future[int] = loop.create_future()  # to what was asked last
        self._outgoing = Outgoing()
        self._granted: dict[str, bool] = {}  # filters beside the topic of triggers
        self._numbered = False  # whether that one's subscription has its number
        self._watch: asyncio.TimerHandle | None = None
        self._client = self._new_client(client_id)
        packets = Packets(lambda: longest_body() + BEGINNING_BYTES)
        self._wire = wire = Wire(
            self._client, packets, self._on_publish, self._outgoing.on_puback, self._on_broken
        )
        self._unanswered = Unanswered(
            take, wait_for_room, mqtt.receive_maximum, wire, self._send_acknowledgements
        )

    def _new_client(self, client_id: str) -> Any:
        will = gmqtt.Message(self.status_topic, status("lost"), qos=1, retain=True)
        client: Any = gmqtt.Client(
            client_id,
            clean_session=False,
            optimistic_acknowledgement=False,
            will_message=will,
            session_expiry_interval=self._mqtt.session_expiry_s,
            receive_maximum=self._mqtt.receive_maximum,
            logger=_log,
        )
        client.set_config({"reconnect_retries": _NEVER_BY_ITSELF, "reconnect_delay": 0})
        if self._mqtt.username is not None:
            client.set_auth_credentials(self._mqtt.username, self._mqtt.password)
        client._create_connection = self._create_connection  # noqa: SLF001
        client.on_disconnect = self._on_disconnect
        client.on_subscribe = self._on_answer
        client.on_unsubscribe = self._on_answer
        return client

    # --- open and close -----------------------------------------------------------------------

    async def open(self, *, numbered: bool = False) -> None:
        """Connect and subscribe to triggers. Raises LinkFailed.

        ``numbered``: there will be other subscriptions, so messages shall name theirs.
        """
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
        await self._unless_closed(self._connect())
        self._outgoing.allow(self._said_by_broker("receive_maximum", 65_535))
        if not await self.subscribe(self._mqtt.topic, numbered=numbered):
            raise LinkFailed(f"the broker refuses a subscription to {self._mqtt.topic}")
        self._numbered = numbered
        self.say("online")

    def _said_by_broker(self, name: str, default: int) -> int:
        """A number of the CONNACK (MQTT 5, 3.2.2.3)."""
        return self._client._package_handler._connack_properties.get(name, [default])[0]  # noqa: SLF001

    async def _connect(self) -> None:
        await self._client.connect(
            self._mqtt.host,
            port=self._mqtt.port,
            ssl=_context(self._mqtt.tls) if self._mqtt.tls else False,
            keepalive=self._mqtt.keepalive,
            version=MQTTv311 if self.protocol == "3.1.1" else MQTTv50,
        )

    async def _create_connection(
        self, host: str, *, port: int, ssl: Any, clean_session: bool, keepalive: int
    ) -> Any:
        """In the place of gmqtt's own: with our wire."""
        transport = await self._connector.connect(
            self._wire,
            host,
            port,
            tls=(lambda: ssl) if ssl else None,
            limit_s=CONNECT_LIMIT_S,
            ends_s=self._loop.time() + CONNECT_LIMIT_S,
        )
        if transport.is_closing():
            raise ConnectionResetError("the broker closed the connection at once")
        handler = self._client._package_handler  # noqa: SLF001
        return MQTTConnection(transport, self._wire, clean_session, keepalive, handler, _log)  # pyright: ignore[reportArgumentType]

    async def _unless_closed(self, step: Awaitable[Any]) -> Any:
        """Wait for a step of opening, or for the end of the connection. Raises LinkFailed."""
        done = asyncio.ensure_future(step)
        done.add_done_callback(_looked_at)  # whoever waited may have been cancelled meanwhile
        await asyncio.wait((done, self.closed), return_when=asyncio.FIRST_COMPLETED)
        if done.done():
            return done.result()
        done.cancel()
        # gmqtt has changed to the older protocol when the broker refused the newer one.
        older = self.protocol == "5" and self._client._connection_state.protocol_version < MQTTv50  # noqa: SLF001
        raise LinkFailed(self.closed.result(), older=older)

    # --- subscriptions ------------------------------------------------------------------------

    async def subscribe(
        self, topic_filter: str, *, numbered: bool = True, again: bool = False
    ) -> bool:
        """Ask for messages. False: the broker refuses. Raises LinkFailed.

        ``again``: only its number changes, so that what is retained has come already.
        """
        number = subscription_identifier(topic_filter) if numbered and self.numbers else None
        subscription = gmqtt.Subscription(
            topic_filter,
            qos=1,
            retain_handling_options=self._retained(again=again),
            subscription_identifier=number,
        )
        return await self._asked(lambda: self._client.subscribe(subscription)) < REFUSED

    async def follow(self, filters: frozenset[str]) -> list[str]:
        """Subscribe to those that this link has not yet; returns which are refused.

        Raises LinkFailed.
        """
        if filters and self.numbers and not self._numbered:
            self._numbered = await self.subscribe(self._mqtt.topic, again=True)
        for each in sorted(filters - self._granted.keys()):
            self._granted[each] = await self.subscribe(each)
        self._granted = {each: self._granted[each] for each in filters}
        return sorted(each for each in filters if not self._granted[each])

    async def unsubscribe(self, topic_filter: str) -> None:
        """Ask for its messages no more; it need not be subscribed. Raises LinkFailed."""
        await self._asked(lambda: self._client.unsubscribe([topic_filter.encode()]))

    @property
    def numbers(self) -> bool:
        """Whether the broker names subscriptions in what it sends (MQTT 5, 3.2.2.3.12)."""
        return self.protocol == "5" and self._said_by_broker("sub_id_available", 1) == 1

    async def _asked(self, ask: Callable[[], Any]) -> int:
        """The reason code of the answer. One after another, as packet ids may be few."""
        async with self._asking:
            self._answer = self._loop.create_future()
            try:
                ask()
            except OverflowError as error:
                raise LinkFailed("the broker allows too few packets at once") from error
            try:
                return await asyncio.wait_for(self._unless_closed(self._answer), OPEN_LIMIT_S)
            except asyncio.TimeoutError:
                raise LinkFailed("the broker does not answer to a subscription") from None

    def _retained(self, *, again: bool) -> int:
        """MQTT 5, 3.8.3.1: 2 asks not to be sent retained messages, 1 not once more.

        In 3.1.1 those bits are reserved, and the messages are told by their flag.
        """
        if self.protocol != "5":
            return 0
        return 1 if again and self._mqtt.retained else 0 if self._mqtt.retained else 2

    # --- messages of ours ---------------------------------------------------------------------

    async def publish(self, topic: str, body: bytes, *, correlation: bytes | None = None) -> None:
        """Publish at QoS 1, and wait for the PUBACK. Raises PublishFailed."""
        fault = topic_fault(topic)
        if fault:
            raise PublishFailed(f"nothing can be published on {topic!r:.60}: {fault}", final=True)
        if not self._connected():
            raise PublishFailed("no broker is connected")
        if correlation is None or self.protocol != "5":
            correlation = b""
        self._check_size(_HEAD_BYTES + len(topic.encode()) + len(correlation) + len(body))
        properties: dict[str, Any] = {"correlation_data": correlation} if correlation else {}
        message = gmqtt.Message(topic.encode(), body, qos=1, **properties)
        try:
            await asyncio.wait_for(
                self._outgoing.publish(lambda: self._send(message)), PUBLISH_LIMIT_S
            )
        except asyncio.TimeoutError:
            why = f"the broker did not acknowledge it within {PUBLISH_LIMIT_S:.0f} s"
            raise PublishFailed(why) from None

    def _check_size(self, size: int) -> None:
        """A broker cuts off who sends more than it takes, and with it all that comes in."""
        most = self._said_by_broker("maximum_packet_size", 256 * 1024 * 1024)
        if size > most:
            raise PublishFailed(
                f"the broker takes at most {most} bytes, header and all", final=True
            )
        if self._said_by_broker("max_qos", 2) == 0:
            raise PublishFailed("the broker takes no messages at QoS 1", final=True)

    def _send(self, message: gmqtt.Message) -> int:
        """Without gmqtt's store, which would send it again on a connection that it never makes."""
        try:
            packet_id, packet = _packets.build_package(message, self._wire)
        except OverflowError as error:
            raise PublishFailed("too much is on its way to the broker") from error
        self._client._connection.send_package(packet)  # noqa: SLF001
        return packet_id

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
        packet_id, message = read_publish(packet, mqtt_5=self.protocol == "5", own=self._own)
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

    def _on_answer(
        self, _client: Any, _mid: int, codes: tuple[int, ...], _props: Any = None
    ) -> None:
        if not self._answer.done():
            self._answer.set_result(codes[0] if codes else 0)  # an UNSUBACK of 3.1.1 has none


def _looked_at(step: asyncio.Future[Any]) -> None:
    if not step.cancelled():
        step.exception()


def status(what: str) -> bytes:
    """The body of a status message."""
    return b'{"state": "%b"}' % what.encode()


def _context(tls: Tls) -> ssl.SSLContext:
    for path in filter(None, (tls.ca, tls.cert, tls.key)):
        stat_regular(Path(path))  # OpenSSL would wait for who writes into a FIFO
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.cert:
        context.load_cert_chain(tls.cert, tls.key)
    return context
