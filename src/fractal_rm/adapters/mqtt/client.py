"""Wraps gmqtt's client for one connection.

gmqtt reconnects by itself, and its public interface does not give access to everything that the
broker sends. So this module uses private names of gmqtt; no other module does. Code outside this
folder does not depend on gmqtt.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import gmqtt  # pyright: ignore[reportMissingTypeStubs]
import msgspec
from gmqtt.mqtt.connection import MQTTConnection  # pyright: ignore[reportMissingTypeStubs]
from gmqtt.mqtt.constants import MQTTv50, MQTTv311  # pyright: ignore[reportMissingTypeStubs]
from gmqtt.mqtt.package import PublishPacket  # pyright: ignore[reportMissingTypeStubs]

from fractal_rm.adapters.connect import Connector
from fractal_rm.adapters.mqtt.connect_options import ConnectOptions
from fractal_rm.adapters.tls import TlsContexts
from fractal_rm.config.model import Broker, Mqtt
from fractal_rm.domain.topic import status_topic

# Less than `OPEN_LIMIT_S`, so that the error of the connect is raised: it names the failed step.
CONNECT_LIMIT_S = 8.0
_NO_RECONNECT = -2
_PACKET_IDS = 65_535
# This package logs each connection itself. Of gmqtt's records, only exceptions are logged.
_log = logging.getLogger("gmqtt.link")
_log.addFilter(lambda record: record.exc_info is not None)
_publish_packet: Any = PublishPacket


class Target(msgspec.Struct, frozen=True):
    """The broker to connect to, and how to connect to it."""

    mqtt: Mqtt
    broker: Broker
    client_id: str
    options: ConnectOptions
    connector: Connector


class Client:
    """The MQTT client of one connection.

    ``on_disconnect`` is called when the connection has ended. The argument is the body of the
    broker's DISCONNECT packet (MQTT 5), or ``b""`` if there was none. If gmqtt cannot read the
    properties of the CONNACK, the argument is an exception.
    """

    def __init__(self, target: Target, on_disconnect: Callable[[bytes | Exception], None]) -> None:
        self._target = target
        self._loop_time = asyncio.get_running_loop().time
        mqtt, options = target.mqtt, target.options
        will = gmqtt.Message(
            status_topic(target.client_id),
            status_body("lost"),
            qos=options.qos,
            retain=options.retain,
        )
        self._client: Any = gmqtt.Client(
            target.client_id.encode(),  # for a str, gmqtt would count characters instead of bytes
            clean_session=False,
            optimistic_acknowledgement=False,
            will_message=will,
            session_expiry_interval=mqtt.session_expiry_s,
            receive_maximum=mqtt.receive_maximum,
            logger=_log,
        )
        self._client.set_config({"reconnect_retries": _NO_RECONNECT, "reconnect_delay": 0})

        def disconnected(_client: Any, packet: bytes | Exception, _error: Any = None) -> None:
            on_disconnect(packet)

        self._client.on_disconnect = disconnected
        if mqtt.username is not None:
            self._client.set_auth_credentials(mqtt.username, mqtt.password)

    def protocol_arguments(self) -> dict[str, Any]:
        """The arguments of gmqtt's protocol class for a connection of this client."""
        return {
            "connection_state": self._client._connection_state,  # noqa: SLF001
            "id_generator": self._client._package_handler.id_generator,  # noqa: SLF001
        }

    async def connect(self, protocol: asyncio.Protocol) -> None:
        """Open the socket, send CONNECT and wait for the CONNACK.

        Raises ConnectFailed, OSError. Raises ValueError for a CONNACK with a limit of 0.
        """
        target, client = self._target, self._client
        client._create_connection = partial(self._open, protocol)  # noqa: SLF001
        await client.connect(
            target.broker.host,
            port=target.broker.port,
            ssl=target.mqtt.tls is not None,
            keepalive=target.mqtt.keepalive,
            version=MQTTv50 if target.options.mqtt_5 else MQTTv311,
        )
        # gmqtt would use no packet id above the broker's Receive Maximum, even for subscriptions.
        client._package_handler.id_generator._max = _PACKET_IDS  # noqa: SLF001
        # A broker that sets a keepalive of 0 does not check this node. This node still checks it.
        if client._connection.keepalive == 0:  # noqa: SLF001
            client._connection.keepalive = target.mqtt.keepalive  # noqa: SLF001
        for name in ("receive_maximum", "maximum_packet_size"):
            if self.limit(name, 1) == 0:  # MQTT 5, 3.2.2.3 forbids 0: nothing could be sent
                raise ValueError(f"the broker announces a {name.replace('_', ' ')} of 0")

    async def _open(
        self,
        protocol: asyncio.Protocol,
        host: str,
        *,
        port: int,
        ssl: Any,
        clean_session: bool,
        keepalive: int,
    ) -> MQTTConnection:
        """Connect with ``protocol``. Replaces gmqtt's own function."""
        tls = self._target.mqtt.tls
        tls_context = partial(TlsContexts().context, tls) if ssl else None
        transport = await self._target.connector.connect(
            protocol,
            host,
            port,
            tls=tls_context,
            server_name=None if tls is None else tls.server_name,
            limit_s=CONNECT_LIMIT_S,
            ends_s=self._loop_time() + CONNECT_LIMIT_S,
        )
        if transport.is_closing():
            raise ConnectionResetError("the broker closed the connection at once")
        handler = self._client._package_handler  # noqa: SLF001
        return MQTTConnection(transport, protocol, clean_session, keepalive, handler, _log)  # pyright: ignore[reportArgumentType]

    def limit(self, name: str, default: int) -> int:
        """A number from the properties of the CONNACK (MQTT 5, 3.2.2.3), or ``default``."""
        properties = self._client._package_handler._connack_properties  # noqa: SLF001
        values = properties.get(name, [default])  # a list, as some properties can occur repeatedly
        return values[0]

    @property
    def connected(self) -> bool:
        """Whether the CONNACK was received and the connection is not closing."""
        return self._connection is not None and self._client.is_connected

    @property
    def _connection(self) -> Any:
        return self._client._connection  # noqa: SLF001

    # --- packets ------------------------------------------------------------------------------

    def handle(self, first: int, data: bytes) -> None:
        """Let gmqtt handle a packet other than PUBLISH. Raises gmqtt's exceptions."""
        # gmqtt's public method would log errors and continue.
        self._connection._handler._handle_packet(first, data)  # noqa: SLF001

    def send(self, packets: bytes) -> None:
        """Send complete packets."""
        self._connection.send_package(packets)

    def publish(self, message: gmqtt.Message) -> int:
        """Send a message; returns its packet id.

        gmqtt's own ``publish`` would also store the message for a reconnect, which never happens.
        """
        connection = self._connection
        protocol = connection._protocol  # noqa: SLF001
        packet_id, packet = _publish_packet.build_package(message, protocol)
        connection.send_package(packet)
        return packet_id

    def set_subscription_callbacks(
        self,
        on_suback: Callable[[Sequence[int]], None],
        on_unsuback: Callable[[Sequence[int]], None],
    ) -> None:
        """Set the functions that get the reason codes of each SUBACK and UNSUBACK.

        An UNSUBACK of MQTT 3.1.1 has no reason codes.
        """

        def suback(_client: Any, _id: int, codes: Sequence[int], _properties: Any) -> None:
            on_suback(codes)

        def unsuback(_client: Any, _id: int, codes: Sequence[int]) -> None:
            on_unsuback(codes)

        self._client.on_subscribe = suback
        self._client.on_unsubscribe = unsuback

    def subscribe(self, subscription: gmqtt.Subscription) -> None:
        """Send SUBSCRIBE."""
        self._client.subscribe(subscription)

    def unsubscribe(self, topic_filter: str) -> None:
        """Send UNSUBSCRIBE."""
        self._client.unsubscribe([topic_filter.encode()])

    def disconnect(self) -> None:
        """Send DISCONNECT. gmqtt's own method would also close the socket at once."""
        self._connection.send_disconnect()

    def abort(self) -> None:
        """Close the socket at once; gmqtt's own method waits for the other side."""
        if self._connection is not None:
            self._connection._transport.abort()  # noqa: SLF001

    # --- keepalive ----------------------------------------------------------------------------

    @property
    def keepalive_s(self) -> int | None:
        """The keepalive in force, which the broker may have set; None before CONNECT."""
        connection = self._connection
        return None if connection is None else connection.keepalive or self._target.mqtt.keepalive

    def note_received(self) -> None:
        """Note that something was received now."""
        self._connection._last_data_in = self._loop_time()  # noqa: SLF001

    @property
    def received_s(self) -> float:
        """When something was last received, on the event loop's clock."""
        return self._connection._last_data_in  # noqa: SLF001

    @property
    def sent_s(self) -> float:
        """When something was last sent, on the event loop's clock."""
        return self._connection._last_data_out  # noqa: SLF001

    def ping(self) -> None:
        """Send PINGREQ."""
        connection = self._connection
        connection._last_data_out = self._loop_time()  # noqa: SLF001
        connection._send_ping_request()  # noqa: SLF001


def status_body(state: str) -> bytes:
    """The body of a status message."""
    return b'{"state": "%b"}' % state.encode()
