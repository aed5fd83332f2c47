"""gmqtt's client, set up for one connection.

gmqtt would reconnect by itself, and does not tell what the broker has said; the few private names
that are used in this folder are for that. Nothing outside of it knows gmqtt.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

import gmqtt  # pyright: ignore[reportMissingTypeStubs]
import msgspec
from gmqtt.mqtt.connection import MQTTConnection  # pyright: ignore[reportMissingTypeStubs]
from gmqtt.mqtt.constants import MQTTv50, MQTTv311  # pyright: ignore[reportMissingTypeStubs]

from fractal_rm.adapters.connect import Connector
from fractal_rm.adapters.mqtt.connect_options import Answer, ConnectOptions
from fractal_rm.adapters.mqtt.wire import Wire
from fractal_rm.adapters.tls import TlsContexts
from fractal_rm.config.model import Broker, Mqtt
from fractal_rm.domain.topic import status_topic

CONNECT_LIMIT_S = 8.0  # its end must not hide what was tried
_NEVER_BY_ITSELF = -2
_PACKET_IDS = 65_535
# gmqtt's own words about connections would double ours; its faults are worth a line.
_log = logging.getLogger("gmqtt.link")
_log.addFilter(lambda record: record.exc_info is not None)


class To(msgspec.Struct, frozen=True):
    """Where a connection leads, and how it is made."""

    mqtt: Mqtt
    broker: Broker
    client_id: str
    options: ConnectOptions
    connector: Connector


class LinkFailed(Exception):
    """There is no connection, and why.

    ``answer`` is what came of the CONNECT. ``cut``: the broker ended the connection with no message
    of ours on its way; ``topic_filter`` is what was subscribed to then.
    """

    def __init__(
        self,
        reason: str,
        answer: Answer = Answer.OTHER,
        *,
        cut: bool = False,
        topic_filter: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.answer = answer
        self.cut = cut
        self.topic_filter = topic_filter


def new_client(to: To) -> Any:
    """A client that is not connected yet."""
    mqtt, options = to.mqtt, to.options
    will = gmqtt.Message(
        status_topic(to.client_id), status("lost"), qos=options.qos, retain=options.retain
    )
    client: Any = gmqtt.Client(
        to.client_id.encode(),  # of a text it would count the characters
        clean_session=False,
        optimistic_acknowledgement=False,
        will_message=will,
        session_expiry_interval=mqtt.session_expiry_s,
        receive_maximum=mqtt.receive_maximum,
        logger=_log,
    )
    client.set_config({"reconnect_retries": _NEVER_BY_ITSELF, "reconnect_delay": 0})
    if mqtt.username is not None:
        client.set_auth_credentials(mqtt.username, mqtt.password)
    return client


async def connect(client: Any, to: To, wire: Wire) -> None:
    """Open the socket, send CONNECT and wait for CONNACK.

    Raises ConnectFailed, OSError, and ValueError where the broker announces what cannot be.
    """
    loop = asyncio.get_running_loop()

    async def create(
        host: str, *, port: int, ssl: Any, clean_session: bool, keepalive: int
    ) -> MQTTConnection:
        """In the place of gmqtt's own: with our wire."""
        transport = await to.connector.connect(
            wire,
            host,
            port,
            tls=partial(TlsContexts().context, to.mqtt.tls) if ssl else None,
            limit_s=CONNECT_LIMIT_S,
            ends_s=loop.time() + CONNECT_LIMIT_S,
        )
        if transport.is_closing():
            raise ConnectionResetError("the broker closed the connection at once")
        handler = client._package_handler  # noqa: SLF001
        return MQTTConnection(transport, wire, clean_session, keepalive, handler, _log)  # pyright: ignore[reportArgumentType]

    client._create_connection = create  # noqa: SLF001
    await client.connect(
        to.broker.host,
        port=to.broker.port,
        ssl=to.mqtt.tls is not None,
        keepalive=to.mqtt.keepalive,
        version=MQTTv50 if to.options.mqtt_5 else MQTTv311,
    )
    # It would share the broker's Receive Maximum out to subscriptions, which do not count for it.
    client._package_handler.id_generator._max = _PACKET_IDS  # noqa: SLF001
    if client._connection.keepalive == 0:  # noqa: SLF001 - the broker does not watch us: we do watch it
        client._connection.keepalive = to.mqtt.keepalive  # noqa: SLF001
    for name in ("receive_maximum", "maximum_packet_size"):
        if said_by_broker(client, name, 1) == 0:  # against MQTT 5, 3.2.2.3, and nothing could leave
            raise ValueError(f"the broker announces a {name.replace('_', ' ')} of 0")


def said_by_broker(client: Any, name: str, default: int) -> int:
    """A number of the CONNACK (MQTT 5, 3.2.2.3)."""
    return client._package_handler._connack_properties.get(name, [default])[0]  # noqa: SLF001


def status(what: str) -> bytes:
    """The body of a status message."""
    return b'{"state": "%b"}' % what.encode()
