"""One connection to the broker, from CONNECT to its end. The only file that knows gmqtt.

    new ──open──> open ──lost, refused, dead, close──> closed

A link is used once: every connect is a new one, the first like the hundredth. So an answer that
comes late goes to the connection on which its message came, which is gone, and the broker sends
the message again (an acknowledgement never reaches another connection).

gmqtt would reconnect by itself, notices a dead link only after two keepalives, and does not say
which protocol it settled for; the few private names that are used here are for that.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

import gmqtt  # pyright: ignore[reportMissingTypeStubs]
import msgspec
from gmqtt.mqtt.constants import MQTTv50, MQTTv311  # pyright: ignore[reportMissingTypeStubs]

from fractal_rm.config.model import Mqtt
from fractal_rm.domain.call import Tls

OPEN_LIMIT_S = 10.0  # for connecting, CONNACK and SUBACK together
CLOSE_LIMIT_S = 2.0
DEAD_AFTER_KEEPALIVES = 1.4
# Larger packets than this are not sent to us by an MQTT 5 broker: memory stays bounded. What is
# larger than max_trigger_bytes and smaller than this becomes a dead letter.
LARGEST_PACKET_BYTES = 64 * 1024 * 1024
TAKEN_OVER = 0x8E  # MQTT 5, 4.13: another client with the same id has connected
_NEVER_BY_ITSELF = -2
_PUBACK = struct.Struct("!BBH")
# gmqtt's own words about connections would double ours; its faults are worth a line.
_log = logging.getLogger("gmqtt.link")
_log.addFilter(lambda record: record.exc_info is not None)


class LinkFailed(Exception):
    """There is no connection, and why. ``older``: the broker wants MQTT 3.1.1."""

    def __init__(self, reason: str, *, older: bool = False) -> None:
        super().__init__(reason)
        self.older = older


class Message(msgspec.Struct, frozen=True):
    """A message as it came. ``key`` is the trigger id among its user properties (MQTT 5)."""

    body: bytes
    retained: bool
    key: str | None


Take = Callable[["Link", Message], Awaitable[None]]


class Link:
    """``take`` is called for every message; when it returns, the message is acknowledged."""

    def __init__(self, mqtt: Mqtt, client_id: str, take: Take, *, older: bool) -> None:
        self._mqtt = mqtt
        self._take = take
        self._loop = loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._acknowledged: list[int] = []
        self.status_topic = f"fractal-rm/{client_id}/status"
        self.protocol = "3.1.1" if older else "5"
        self.closed: asyncio.Future[str] = loop.create_future()
        self._granted: asyncio.Future[int] = loop.create_future()
        self._unanswered = 0
        self._room = asyncio.Event()
        self._room.set()
        self._watch: asyncio.TimerHandle | None = None
        self._client = self._new_client(client_id)

    def _new_client(self, client_id: str) -> Any:
        will = gmqtt.Message(self.status_topic, status("lost"), qos=1, retain=True)
        client: Any = gmqtt.Client(
            client_id,
            clean_session=False,
            optimistic_acknowledgement=False,
            will_message=will,
            session_expiry_interval=self._mqtt.session_expiry_s,
            receive_maximum=self._mqtt.receive_maximum,
            maximum_packet_size=LARGEST_PACKET_BYTES,
            logger=_log,
        )
        client.set_config({"reconnect_retries": _NEVER_BY_ITSELF, "reconnect_delay": 0})
        if self._mqtt.username is not None:
            client.set_auth_credentials(self._mqtt.username, self._mqtt.password)
        client._package_handler._handle_qos_1_publish_packet = self._on_publish  # noqa: SLF001
        client.on_message = self._on_qos_0
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
        self._read_only_with_room()
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
        """Say goodbye in order, so that the broker does not publish the will."""
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
        if not self._room.is_set():  # it is we who do not listen
            connection._last_data_in = loop.time()  # noqa: SLF001
        silent_s = loop.time() - connection._last_data_in  # noqa: SLF001 - of the same clock
        if silent_s > DEAD_AFTER_KEEPALIVES * keepalive_s:
            self._end(f"the broker has been silent for {silent_s:.0f} s")
            self.abort()
            return
        self._watch = loop.call_later(keepalive_s / 16, self._beat)

    # --- what gmqtt calls ---------------------------------------------------------------------

    def _on_publish(
        self, packet_id: int, body: bytes, _topic: str, properties: dict[str, Any]
    ) -> None:
        """In the place of gmqtt's own, which makes three system calls for each message."""
        self._begin(packet_id, body, properties)

    def _on_qos_0(
        self, _client: Any, _topic: str, body: bytes, _qos: int, properties: dict[str, Any]
    ) -> None:
        """From publishers that want no promise."""
        self._begin(None, body, properties)

    def _begin(self, packet_id: int | None, body: bytes, properties: dict[str, Any]) -> None:
        message = Message(body, bool(properties["retain"]), _key(properties))
        task = self._loop.create_task(self._see_to(packet_id, message))
        self._tasks.add(task)
        self._count(1)

    async def _see_to(self, packet_id: int | None, message: Message) -> None:
        try:
            await self._take(self, message)
            if packet_id is not None:
                self._acknowledge(packet_id)
        finally:
            self._count(-1)
            self._tasks.discard(cast("asyncio.Task[None]", asyncio.current_task(self._loop)))

    def _acknowledge(self, packet_id: int) -> None:
        """PUBACK (MQTT 5, 3.4): what is acknowledged in one turn of the loop goes out together."""
        if self.closed.done():
            return
        if not self._acknowledged:
            self._loop.call_soon(self._send_acknowledgements)
        self._acknowledged.append(packet_id)

    def _send_acknowledgements(self) -> None:
        packets = b"".join([_PUBACK.pack(0x40, 2, each) for each in self._acknowledged])
        self._acknowledged.clear()
        if not self.closed.done():
            self._client._connection.send_package(packets)  # noqa: SLF001

    def _count(self, by: int) -> None:
        """MQTT 3.1.1 has no Receive Maximum: there, what is too much is left in the socket."""
        self._unanswered += by
        if self._unanswered < self._mqtt.receive_maximum:
            self._room.set()
        else:
            self._room.clear()

    def _read_only_with_room(self) -> None:
        """One step above the transport, which gmqtt pauses and resumes by itself."""
        protocol = self._client._connection._protocol  # noqa: SLF001
        read = protocol.read

        async def gated(size: int) -> bytes:
            await self._room.wait()
            return await read(size)

        protocol.read = gated

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


def _key(properties: dict[str, Any]) -> str | None:
    pairs: list[tuple[str, str]] = properties.get("user_property", [])
    return next((v for n, v in pairs if n.lower() in ("idempotency-key", "id")), None)


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.ca)
    if tls.cert:
        context.load_cert_chain(tls.cert, tls.key)
    return context
