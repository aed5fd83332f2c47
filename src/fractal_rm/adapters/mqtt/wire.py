"""What lies between the socket and gmqtt: packets, in order, as long as there is room for them.

gmqtt copies all that has come of a packet for every piece of it, and reads on whatever happens.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Callable, Mapping
from typing import Any, cast

from gmqtt.mqtt.protocol import MQTTProtocol  # pyright: ignore[reportMissingTypeStubs]

from fractal_rm.adapters.mqtt.packets import NotMqtt, Packet, Packets
from fractal_rm.adapters.mqtt.publish_packet import PUBLISH
from fractal_rm.adapters.tls import describe_tls_error

CONNACK, PUBACK, DISCONNECT = 0x20, 0x40, 0xE0
# Type and flags of what a broker sends to a client that subscribes at QoS 1 and asks for no
# extended authentication (MQTT 5, 2.1); its SUBACK, UNSUBACK and PINGRESP are the other three.
_TAKEN = frozenset({CONNACK, PUBACK, 0x90, 0xB0, 0xD0, DISCONNECT})
_RESET = (
    "the broker reset the connection right after the TLS handshake:"
    " perhaps it asks for a certificate that tls.cert does not name"
)
_EARLY = "a packet before its CONNACK"  # MQTT 5, 3.2: that is the first, and comes once


class Wire(MQTTProtocol):
    """``on_publish`` takes the messages, and may raise NotMqtt; gmqtt takes the other packets.

    ``on_packet``, by type, sees some of them before gmqtt does, which forgets their reason codes.
    ``on_broken`` is told why what comes is of no use, and ends the connection.
    """

    def __init__(
        self,
        client: Any,
        packets: Packets,
        on_publish: Callable[[Packet], None],
        on_packet: Mapping[int, Callable[[bytes], None]],
        on_broken: Callable[[str], None],
    ) -> None:
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            connection_state=client._connection_state,  # noqa: SLF001
            id_generator=client._package_handler.id_generator,  # noqa: SLF001
        )
        self._packets = packets
        self._accepted = False
        self._on_publish = self._on_early_publish
        self._on_publish_when_accepted = on_publish
        self._on_packet = on_packet
        self._on_broken = on_broken
        self._loop_time = asyncio.get_running_loop().time
        self._connection: Any = None
        self._transport: Any = None
        self._paused = False
        self._reads_past = False
        self.held = False
        self.refused = ""  # why the broker's TLS did not let us in

    @property
    def opened(self) -> bool:
        """Whether CONNECT could leave, and nothing shows that the broker cannot have read it."""
        return self._connection is not None and not self.refused

    def hold(self) -> None:
        """Hand over no more, and read no more."""
        self.held = True
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def release(self) -> None:
        """Go on, first with what was read before."""
        self.held = False
        self._hand_over()
        if not self.held and self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    async def wait_for_end(self) -> None:
        """Read past all that comes, after a DISCONNECT, until the broker has ended the connection.

        It has read every PUBACK by then. Closed on this side before that, the connection may be
        reset, as what came was not read; and a new one with the same client id may be seen first.
        """
        self._reads_past = True
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()
        await cast("asyncio.Future[None]", self.closed)  # pyright: ignore[reportUnknownMemberType]

    def _hand_over(self) -> None:
        try:
            while not self.held and (packet := self._packets.take()) is not None:
                if packet.first in PUBLISH:
                    self._on_publish(packet)
                else:
                    self._take(packet)
                    if self._transport.is_closing():
                        return
        except NotMqtt as error:
            self._on_broken(error.reason)

    def _take(self, packet: Packet) -> None:
        """A packet that is no message. Raises NotMqtt."""
        kind = packet.first >> 4
        if packet.first not in _TAKEN:
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
                self._on_publish = self._on_publish_when_accepted
            # gmqtt would log what it cannot read, and go on.
            self._connection._handler._handle_packet(packet.first, packet.data)  # noqa: SLF001
        except (ValueError, LookupError, struct.error) as error:
            raise NotMqtt(f"a packet of type {kind} that cannot be read: {error}") from error

    def _on_early_publish(self, _packet: Packet) -> None:
        raise NotMqtt(_EARLY)

    # --- what asyncio calls -------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Connected. gmqtt's read loop is not begun: the place of `MQTTProtocol` is here."""
        super(MQTTProtocol, self).connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._connection is None:  # before our CONNECT
            self._transport.abort()
            return
        if self._reads_past:
            return
        self._connection._last_data_in = self._loop_time()  # noqa: SLF001 - of the same clock
        self._packets.feed(data)
        self._hand_over()

    def eof_received(self) -> bool:
        """The broker has ended; so do we."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone. TLS 1.3 may refuse it when CONNECT is on its way already.

        It is reset then, as that is not read, and the reset may overtake the reason.
        """
        if not self._accepted:
            if isinstance(exc, ssl.SSLError):
                self.refused = describe_tls_error(exc)
            elif isinstance(exc, ConnectionError) and self._transport.get_extra_info("ssl_object"):
                self.refused = _RESET
        if self._connection is not None:
            super().connection_lost(exc)  # pyright: ignore[reportUnknownMemberType]
