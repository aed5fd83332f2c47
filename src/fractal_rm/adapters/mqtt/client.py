"""gmqtt's client, set up for one connection.

gmqtt would reconnect by itself, and does not say which protocol it settled for; the few private
names that are used in this folder are for that. Nothing outside of it knows gmqtt.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Any

import gmqtt  # pyright: ignore[reportMissingTypeStubs]
from gmqtt.mqtt.connection import MQTTConnection  # pyright: ignore[reportMissingTypeStubs]
from gmqtt.mqtt.constants import MQTTv50, MQTTv311  # pyright: ignore[reportMissingTypeStubs]

from fractal_rm.adapters.connect import Connector
from fractal_rm.adapters.mqtt.wire import Wire
from fractal_rm.config.model import Mqtt
from fractal_rm.config.regular_file import stat_regular
from fractal_rm.domain.call import Tls

CONNECT_LIMIT_S = 8.0  # its end must not hide what was tried
_NEVER_BY_ITSELF = -2
# gmqtt's own words about connections would double ours; its faults are worth a line.
_log = logging.getLogger("gmqtt.link")
_log.addFilter(lambda record: record.exc_info is not None)


class LinkFailed(Exception):
    """There is no connection, and why. ``older``: the broker wants MQTT 3.1.1."""

    def __init__(self, reason: str, *, older: bool = False) -> None:
        super().__init__(reason)
        self.older = older


def new_client(mqtt: Mqtt, client_id: str, status_topic: str) -> Any:
    """A client that is not connected yet."""
    will = gmqtt.Message(status_topic, status("lost"), qos=1, retain=True)
    client: Any = gmqtt.Client(
        client_id,
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


async def connect(
    client: Any, connector: Connector, mqtt: Mqtt, wire: Wire, *, mqtt_5: bool
) -> None:
    """Open the socket, send CONNECT and wait for CONNACK.

    Raises ConnectFailed, OSError, ValueError, gmqtt.MQTTConnectError.
    """
    loop = asyncio.get_running_loop()

    async def create(
        host: str, *, port: int, ssl: Any, clean_session: bool, keepalive: int
    ) -> MQTTConnection:
        """In the place of gmqtt's own: with our wire."""
        transport = await connector.connect(
            wire,
            host,
            port,
            tls=(lambda: ssl) if ssl else None,
            limit_s=CONNECT_LIMIT_S,
            ends_s=loop.time() + CONNECT_LIMIT_S,
        )
        if transport.is_closing():
            raise ConnectionResetError("the broker closed the connection at once")
        handler = client._package_handler  # noqa: SLF001
        return MQTTConnection(transport, wire, clean_session, keepalive, handler, _log)  # pyright: ignore[reportArgumentType]

    client._create_connection = create  # noqa: SLF001
    await client.connect(
        mqtt.host,
        port=mqtt.port,
        ssl=_context(mqtt.tls) if mqtt.tls else False,
        keepalive=mqtt.keepalive,
        version=MQTTv50 if mqtt_5 else MQTTv311,
    )


def wants_older(client: Any) -> bool:
    """Whether gmqtt has changed to the older protocol, as the broker refused the newer one."""
    return client._connection_state.protocol_version < MQTTv50  # noqa: SLF001


def said_by_broker(client: Any, name: str, default: int) -> int:
    """A number of the CONNACK (MQTT 5, 3.2.2.3)."""
    return client._package_handler._connack_properties.get(name, [default])[0]  # noqa: SLF001


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
