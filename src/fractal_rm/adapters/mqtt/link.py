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
from typing import Any

import gmqtt  # pyright: ignore[reportMissingTypeStubs]
from gmqtt.mqtt.connection import MQTTConnection  # pyright: ignore[reportMissingTypeStubs]
from gmqtt.mqtt.constants import MQTTv50, MQTTv311  # pyright: ignore[reportMissingTypeStubs]

from fractal_rm.adapters.mqtt.packets import BEGINNING_BYTES, Packet, Packets
from fractal_rm.adapters.mqtt.publish_packet import read_publish
from fractal_rm.adapters.mqtt.unanswered import Take, Unanswered
from fractal_rm.adapters.mqtt.wire import Wire
from fractal_rm.config.model import Mqtt
from fractal_rm.domain.call import Tls

OPEN_LIMIT_S = 10.0  # for connecting, CONNACK and SUBACK together
ANSWER_LIMIT_S = 2.0
CLOSE_LIMIT_S = 2.0
DEAD_AFTER_KEEPALIVES = 1.4
TAKEN_OVER = 0x8E  # MQTT 5, 4.13: another client with the same id has connected
_NEVER_BY_ITSELF = -2
# gmqtt's own words about connections would double ours; its faults are worth a line.
_log = logging.getLogger("gmqtt.link")
_log.addFilter(lambda record: record.exc_info is not None)


class LinkFailed(Exception):
    """There is no connection, and why. ``older``: the broker wants MQTT 3.1.1."""

    def __init__(self, reason: str, *, older: bool = False) -> None:
        super().__init__(reason)
        self.older = older


class Link:
    """``take`` and ``wait_for_room`` are for `Unanswered`.

    ``longest_body`` tells how many bytes a body may have; of longer ones the beginning is read.
    """

    def __init__(
        self,
        mqtt: Mqtt,
        client_id: str,
        take: Take,
        wait_for_room: Callable[[], Awaitable[None]],
        longest_body: Callable[[], int],
        *,
        older: bool,
    ) -> None:
        self._mqtt = mqtt
        self._loop = loop = asyncio.get_running_loop()
        self.status_topic = f"fractal-rm/{client_id}/status"
        self.protocol = "3.1.1" if older else "5"
        self.closed: asyncio.Future[str] = loop.create_future()
        self._granted: asyncio.Future[int] = loop.create_future()
        self._watch: asyncio.TimerHandle | None = None
        self._client = self._new_client(client_id)
        packets = Packets(lambda: longest_body() + BEGINNING_BYTES)
        self._wire = wire = Wire(self._client, packets, self._on_publish, self._on_broken)
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
        client.on_subscribe = self._on_subscribe
        return client

    # --- open and close -----------------------------------------------------------------------

    async def open(self) -> None:
        """Connect and subscribe. Raises LinkFailed."""
        try:
            await asyncio.wait_for(self._connect_and_subscribe(), OPEN_LIMIT_S)
        except LinkFailed:
            self.abort()
            raise
        except asyncio.TimeoutError:
            self.abort()
            raise LinkFailed(f"the broker did not answer within {OPEN_LIMIT_S:.0f} s") from None
        except (OSError, ValueError, gmqtt.MQTTConnectError) as error:
            self.abort()
            raise LinkFailed(str(error) or type(error).__name__) from error
        self._beat()

    async def _connect_and_subscribe(self) -> None:
        await self._unless_closed(self._connect())
        topic = gmqtt.Subscription(
            self._mqtt.topic, qos=1, retain_handling_options=self._retained()
        )
        self._client.subscribe(topic)
        granted = await self._unless_closed(self._granted)
        if granted >= 0x80:
            raise LinkFailed(f"the broker refuses a subscription to {self._mqtt.topic}")
        self.say("online")

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
        transport, wire = await self._loop.create_connection(
            lambda: self._wire, host, port, ssl=ssl or None
        )
        if transport.is_closing():
            raise ConnectionResetError("the broker closed the connection at once")
        handler = self._client._package_handler  # noqa: SLF001
        return MQTTConnection(transport, wire, clean_session, keepalive, handler, _log)  # pyright: ignore[reportArgumentType]

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

    def _retained(self) -> int:
        """MQTT 5, 3.8.3.1: 2 asks not to be sent retained messages at subscribe.

        In 3.1.1 those bits are reserved, and the messages are told by their flag.
        """
        return 2 if self.protocol == "5" and not self._mqtt.retained else 0

    async def close(self) -> None:
        """Answer what was read, and say goodbye, so that the broker does not publish the will."""
        if not self.closed.done():
            await self._unanswered.finish(ANSWER_LIMIT_S)
        if not self.closed.done():
            self.say("stopped")
            with suppress(asyncio.TimeoutError, OSError):  # `abort` sees to the rest
                await asyncio.wait_for(self._client.disconnect(), CLOSE_LIMIT_S)
        self.abort()

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
        packet_id, message = read_publish(packet, mqtt_5=self.protocol == "5")
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

    def _on_subscribe(self, _client: Any, _mid: int, granted: tuple[int, ...], _props: Any) -> None:
        if not self._granted.done():
            self._granted.set_result(granted[0])


def _looked_at(step: asyncio.Future[Any]) -> None:
    if not step.cancelled():
        step.exception()


def status(what: str) -> bytes:
    """The body of a status message."""
    return b'{"state": "%b"}' % what.encode()


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.cert:
        context.load_cert_chain(tls.cert, tls.key)
    return context
