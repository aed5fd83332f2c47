"""The asyncio protocol between the socket and gmqtt. It handles packets in order, and can pause.

gmqtt's own protocol cannot pause. For each piece of a packet, it copies all earlier pieces again.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable, Mapping
from typing import Any, cast

from gmqtt.mqtt.protocol import MQTTProtocol  # pyright: ignore[reportMissingTypeStubs]

from fractal_rm.adapters.mqtt.client import Client
from fractal_rm.adapters.mqtt.packets import NotMqtt, Packet, Packets
from fractal_rm.adapters.mqtt.publish_packet import PUBLISH_FIRST_BYTES
from fractal_rm.adapters.tls import describe_tls_error

CONNACK, PUBACK, DISCONNECT = 0x20, 0x40, 0xE0
# The first bytes of all packets except PUBLISH that a broker may send to a client (MQTT 5, 2.1), if
# the client subscribes at QoS 1 and does not use extended authentication. The three numbers are
# SUBACK, UNSUBACK and PINGRESP.
_ALLOWED = frozenset({CONNACK, PUBACK, 0x90, 0xB0, 0xD0, DISCONNECT})
_RESET = (
    "the broker reset the connection right after the TLS handshake:"
    " perhaps it requires a client certificate; check tls.cert"
)
_BEFORE_CONNACK = "a packet before the CONNACK"  # MQTT 5, 3.2: a CONNACK must be the first packet


class PacketProtocol(MQTTProtocol):
    """Passes PUBLISH packets to ``on_publish``, and other packets to gmqtt.

    ``on_publish`` must be set before the connection is opened. It may raise NotMqtt.
    ``on_packet`` maps the first bytes of some other packets to functions. The function is called
    before gmqtt handles the packet, because gmqtt drops the reason codes of these packets.
    ``on_broken`` is called with the reason if a packet cannot be read. It must end the connection.
    """

    # These attributes are set by gmqtt.
    _connection: Any
    _transport: Any

    def __init__(
        self,
        client: Client,
        packets: Packets,
        on_packet: Mapping[int, Callable[[bytes], None]],
        on_broken: Callable[[str], None],
    ) -> None:
        super().__init__(**client.protocol_arguments())  # pyright: ignore[reportUnknownMemberType]
        self._client = client
        self._packets = packets
        self._connack_received = False
        self.on_publish: Callable[[Packet], None] = _refuse
        self._on_publish = _refuse  # replaced by `on_publish` at the CONNACK
        self._on_packet = on_packet
        self._on_broken = on_broken
        self._socket_paused = False
        self._discards_input = False
        self.paused = False
        self.tls_refusal = ""  # why the broker's TLS refused the connection

    @property
    def connect_sent(self) -> bool:
        """Whether CONNECT was sent, and the broker may have read it."""
        return self._connection is not None and not self.tls_refusal

    def pause(self) -> None:
        """Stop reading, and stop handling packets that were read already."""
        self.paused = True
        if not self._socket_paused and not self._transport.is_closing():
            self._socket_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Handle the packets that were read already, then continue reading."""
        self.paused = False
        self._handle_packets()
        if not self.paused:
            self._resume_socket()

    async def wait_for_end(self) -> None:
        """After a DISCONNECT, discard received bytes until the broker has closed the connection.

        When the broker closes the connection, it has read every PUBACK. If this side closed the
        connection first, unread data could make the system reset it. Then the broker could receive
        the next connection of this client before it has read the PUBACKs.
        """
        self._discards_input = True
        self._resume_socket()
        await cast("asyncio.Future[None]", self.closed)  # pyright: ignore[reportUnknownMemberType]

    def _resume_socket(self) -> None:
        if self._socket_paused and not self._transport.is_closing():
            self._socket_paused = False
            self._transport.resume_reading()

    def _handle_packets(self) -> None:
        try:
            while not self.paused and (packet := self._packets.take()) is not None:
                if packet.first_byte in PUBLISH_FIRST_BYTES:
                    self._on_publish(packet)
                else:
                    self._handle(packet)
                    if self._transport.is_closing():
                        return
        except NotMqtt as error:
            self._on_broken(error.reason)

    def _handle(self, packet: Packet) -> None:
        """Handle a packet other than PUBLISH. Raises NotMqtt."""
        kind = packet.first_byte >> 4
        if packet.first_byte not in _ALLOWED:
            raise NotMqtt(f"a packet of type {kind} with the flags {packet.first_byte & 0x0F:04b}")
        if packet.first_byte == CONNACK and self._connack_received:
            raise NotMqtt("a second CONNACK")
        if packet.first_byte not in (CONNACK, DISCONNECT) and not self._connack_received:
            raise NotMqtt(_BEFORE_CONNACK)
        try:
            if packet.first_byte in self._on_packet:
                self._on_packet[packet.first_byte](packet.data)
                if self._transport.is_closing():
                    return
            if packet.first_byte == CONNACK:
                self._connack_received = True
                self._on_publish = self.on_publish
            self._client.handle(packet.first_byte, packet.data)
        except (ValueError, LookupError, struct.error) as error:
            raise NotMqtt(f"a packet of type {kind} that cannot be read: {error}") from error

    # --- called by asyncio --------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Set the transport. Unlike in `MQTTProtocol`, gmqtt's read loop is not started."""
        super(MQTTProtocol, self).connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Split received bytes into packets, and handle them."""
        if self._connection is None:  # the broker has sent data before our CONNECT
            self._transport.abort()
            return
        if self._discards_input:
            return
        self._client.note_received()
        self._packets.feed(data)
        self._handle_packets()

    def eof_received(self) -> bool:
        """Return False, so that asyncio closes our side after the broker has closed its own."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the reason if the broker's TLS refused the connection.

        With TLS 1.3, a broker can refuse the connection after CONNECT was sent. Then the broker's
        system may reset the connection, since the CONNECT is unread, and the TLS alert with the
        reason may be lost.
        """
        if not self._connack_received:
            if isinstance(exc, ssl.SSLError):
                self.tls_refusal = describe_tls_error(exc)
            elif isinstance(exc, ConnectionError) and self._transport.get_extra_info("ssl_object"):
                self.tls_refusal = _RESET
        if self._connection is not None:
            super().connection_lost(exc)  # pyright: ignore[reportUnknownMemberType]


def _refuse(_packet: Packet) -> None:
    raise NotMqtt(_BEFORE_CONNACK)
