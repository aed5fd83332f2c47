"""The asyncio protocol between the socket and gmqtt: whole packets, in order, with flow control.

gmqtt's own protocol copies all that it has of a packet for each piece of it, and cannot pause.
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
from fractal_rm.adapters.mqtt.publish_packet import PUBLISH
from fractal_rm.adapters.tls import describe_tls_error

CONNACK, PUBACK, DISCONNECT = 0x20, 0x40, 0xE0
# Type and flags of what a broker may send to a client that subscribes at QoS 1 and uses no extended
# authentication (MQTT 5, 2.1). The other three are SUBACK, UNSUBACK and PINGRESP.
_ALLOWED = frozenset({CONNACK, PUBACK, 0x90, 0xB0, 0xD0, DISCONNECT})
_RESET = (
    "the broker reset the connection right after the TLS handshake:"
    " perhaps it requires a client certificate, which tls.cert does not give"
)
_EARLY = "a packet before its CONNACK"  # MQTT 5, 3.2: the CONNACK is the first, and comes once


class Wire(MQTTProtocol):
    """``on_publish`` gets the PUBLISH packets and may raise NotMqtt; gmqtt gets the others.

    ``on_publish`` is to be set before the connection is opened.
    ``on_packet``, by type, gets some of them before gmqtt, which drops their reason codes.
    ``on_broken`` gets the reason why the packets cannot be used, and ends the connection.
    """

    _connection: Any  # both are set by gmqtt
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
        self._accepted = False
        self.on_publish: Callable[[Packet], None] = _refuse
        self._on_publish = _refuse  # until the CONNACK
        self._on_packet = on_packet
        self._on_broken = on_broken
        self._socket_paused = False
        self._skips_all = False
        self.paused = False
        self.tls_refusal = ""  # why the broker's TLS refused the connection

    @property
    def connect_sent(self) -> bool:
        """Whether CONNECT was sent and nothing shows that the broker cannot have read it."""
        return self._connection is not None and not self.tls_refusal

    def pause(self) -> None:
        """Hand over no more packets, and stop reading."""
        self.paused = True
        if not self._socket_paused and not self._transport.is_closing():
            self._socket_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Hand over the packets that were read already, then read again."""
        self.paused = False
        self._hand_over()
        if not self.paused:
            self._resume_socket()

    async def wait_for_end(self) -> None:
        """After DISCONNECT: discard what comes until the broker has closed the connection.

        The broker has read every PUBACK by then. If this side closed the connection first, unread
        data could make the system reset it, and the broker could see a new connection with the
        same client id before the PUBACKs.
        """
        self._skips_all = True
        self._resume_socket()
        await cast("asyncio.Future[None]", self.closed)  # pyright: ignore[reportUnknownMemberType]

    def _resume_socket(self) -> None:
        if self._socket_paused and not self._transport.is_closing():
            self._socket_paused = False
            self._transport.resume_reading()

    def _hand_over(self) -> None:
        try:
            while not self.paused and (packet := self._packets.take()) is not None:
                if packet.first in PUBLISH:
                    self._on_publish(packet)
                else:
                    self._handle(packet)
                    if self._transport.is_closing():
                        return
        except NotMqtt as error:
            self._on_broken(error.reason)

    def _handle(self, packet: Packet) -> None:
        """Handle a packet that is no PUBLISH. Raises NotMqtt."""
        kind = packet.first >> 4
        if packet.first not in _ALLOWED:
            raise NotMqtt(f"a packet of type {kind} with the flags {packet.first & 0x0F:04b}")
        if packet.first != DISCONNECT and (packet.first == CONNACK) is self._accepted:
            raise NotMqtt("a second CONNACK" if self._accepted else _EARLY)
        try:
            if packet.first in self._on_packet:
                self._on_packet[packet.first](packet.data)
                if self._transport.is_closing():
                    return
            if packet.first == CONNACK:
                self._accepted = True
                self._on_publish = self.on_publish
            self._client.handle(packet.first, packet.data)
        except (ValueError, LookupError, struct.error) as error:
            raise NotMqtt(f"a packet of type {kind} that cannot be read: {error}") from error

    # --- called by asyncio --------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Connected. `MQTTProtocol.connection_made`, which starts gmqtt's read loop, is skipped."""
        super(MQTTProtocol, self).connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Bytes were received."""
        if self._connection is None:  # before our CONNECT
            self._transport.abort()
            return
        if self._skips_all:
            return
        self._client.note_received()
        self._packets.feed(data)
        self._hand_over()

    def eof_received(self) -> bool:
        """The broker has closed its side; False closes ours."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed. With TLS 1.3 it can be refused after CONNECT was sent.

        The unread CONNECT then makes the broker's system reset it, and the reset may overtake the
        TLS alert with the reason.
        """
        if not self._accepted:
            if isinstance(exc, ssl.SSLError):
                self.tls_refusal = describe_tls_error(exc)
            elif isinstance(exc, ConnectionError) and self._transport.get_extra_info("ssl_object"):
                self.tls_refusal = _RESET
        if self._connection is not None:
            super().connection_lost(exc)  # pyright: ignore[reportUnknownMemberType]


def _refuse(_packet: Packet) -> None:
    raise NotMqtt(_EARLY)
