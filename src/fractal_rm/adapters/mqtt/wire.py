"""What lies between the socket and gmqtt: packets, in order, as long as there is room for them.

gmqtt copies all that has come of a packet for every piece of it, and reads on whatever happens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gmqtt.mqtt.package import Package  # pyright: ignore[reportMissingTypeStubs]
from gmqtt.mqtt.protocol import MQTTProtocol  # pyright: ignore[reportMissingTypeStubs]

from fractal_rm.adapters.mqtt.packets import NotMqtt, Packet, Packets
from fractal_rm.adapters.mqtt.publish_packet import PUBLISH

PUBACK = 0x40


class Wire(MQTTProtocol):
    """``on_publish`` takes the messages, and may raise NotMqtt; gmqtt takes the other packets.

    ``on_puback`` sees acknowledgements before gmqtt does, which forgets their reason codes.
    """

    def __init__(
        self,
        client: Any,
        packets: Packets,
        on_publish: Callable[[Packet], None],
        on_puback: Callable[[bytes], None],
        on_broken: Callable[[str], None],
    ) -> None:
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            connection_state=client._connection_state,  # noqa: SLF001
            id_generator=client._package_handler.id_generator,  # noqa: SLF001
        )
        self._packets = packets
        self._on_publish = on_publish
        self._on_puback = on_puback
        self._on_broken = on_broken
        self._loop_time = asyncio.get_running_loop().time
        self._connection: Any = None
        self._transport: Any = None
        self._paused = False
        self.held = False

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

    def _hand_over(self) -> None:
        try:
            while not self.held and (packet := self._packets.take()) is not None:
                if packet.first & 0xF0 == PUBLISH:
                    self._on_publish(packet)
                else:
                    if packet.first & 0xF0 == PUBACK:
                        self._on_puback(packet.data)
                    self._connection.put_package(Package(packet.first, packet.data))
        except NotMqtt as error:
            self._on_broken(error.reason)

    # --- what asyncio calls -------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Connected. gmqtt's read loop is not begun: the place of `MQTTProtocol` is here."""
        super(MQTTProtocol, self).connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._connection is None:  # before our CONNECT
            self._transport.abort()
            return
        self._connection._last_data_in = self._loop_time()  # noqa: SLF001 - of the same clock
        self._packets.feed(data)
        self._hand_over()

    def eof_received(self) -> bool:
        """The broker has ended; so do we."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        if self._connection is not None:
            super().connection_lost(exc)  # pyright: ignore[reportUnknownMemberType]
