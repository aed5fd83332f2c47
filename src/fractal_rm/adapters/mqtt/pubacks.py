"""Sends PUBACK packets (MQTT 5, 3.4)."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

from fractal_rm.adapters.mqtt.acknowledged import (
    AcknowledgedMessages,
    NumberedMessage,
    same_message,
)
from fractal_rm.adapters.mqtt.publish_packet import Message

_PUBACK = struct.Struct("!BBH")  # type, length of the rest (2 bytes), packet id


class Pubacks:
    """Sends the PUBACKs of one turn of the event loop together.

    ``pending`` contains the messages that have no PUBACK yet, by packet id. ``send`` sends packets.
    Each acknowledged message is added to ``acknowledged``, even after the connection has ended.
    """

    def __init__(self, send: Callable[[bytes], None], acknowledged: AcknowledgedMessages) -> None:
        self._send = send
        self._acknowledged = acknowledged
        self._batch: list[NumberedMessage] = []
        self.pending: dict[int | None, Message] = {}

    def is_pending(self, packet_id: int, message: Message) -> bool:
        """Whether this message was received before on this connection, and has no PUBACK yet."""
        return same_message(self.pending.get(packet_id), message)

    def add(self, numbered: NumberedMessage) -> None:
        """Acknowledge a message, together with the others of this turn of the event loop."""
        if not self._batch:
            asyncio.get_running_loop().call_soon(self.send)
        self._batch.append(numbered)

    def send(self) -> None:
        """Send the PUBACKs that were added."""
        batch = self._batch
        if batch:
            self._batch = []
            self._acknowledged.add(batch)
            for packet_id, _ in batch:
                self.pending.pop(packet_id, None)
            self._send(b"".join([_PUBACK.pack(0x40, 2, packet_id) for packet_id, _ in batch]))
