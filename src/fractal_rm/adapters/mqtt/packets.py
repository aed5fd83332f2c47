"""Splits the received bytes into MQTT packets (MQTT 5, 2.1).

If a packet is too large to become a run, only its beginning is stored, and the rest is skipped. So
a publisher cannot exhaust the memory of this process.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from fractal_rm.domain.errors import FractalError

# If a packet is too large, this many bytes from its beginning are stored. They contain the topic
# (at most 64 KiB) and 64 KiB of the body. A dead letter contains no more of the body.
BEGINNING_BYTES = 128 * 1024
_MORE = 0x80  # this bit of a byte is set if the length continues in the next byte
_MAX_LENGTH_BYTES = 4


class NotMqtt(FractalError):
    """The received bytes are not MQTT: the connection cannot be used any more."""

    code = "not-mqtt"


class Packet(msgspec.Struct, frozen=True):
    """One packet. ``first_byte`` contains its type and flags.

    ``data`` is the packet without the fixed header, or only the beginning of it. ``size`` is the
    complete size without the fixed header, in bytes.
    """

    first_byte: int
    data: bytes
    size: int


class Packets:
    """Splits bytes into packets: `feed` adds bytes, `take` returns packets.

    ``max_bytes`` returns the size up to which a packet is stored completely.
    """

    def __init__(self, max_bytes: Callable[[], int]) -> None:
        self._max_bytes = max_bytes
        self._buffer: bytes | bytearray = b""
        self._at = 0  # where the next packet begins in the buffer
        self._large_packet: Packet | None = None  # a large packet whose rest is being skipped
        self._to_skip = 0  # how many bytes of the large packet were not received yet

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        if self._to_skip:
            skipped = min(self._to_skip, len(data))
            self._to_skip -= skipped
            data = data[skipped:]
        if self._at == len(self._buffer):
            self._buffer = data
        else:
            # A bytearray grows in place, so a packet of many pieces is not copied for each piece.
            if self._at or not isinstance(self._buffer, bytearray):
                self._buffer = bytearray(self._buffer[self._at :])
            self._buffer += data
        self._at = 0

    def take(self) -> Packet | None:
        """Return the next packet, or None if it is not complete yet. Raises NotMqtt."""
        if self._large_packet is not None:
            return self._take_large_packet()
        buffer, at = self._buffer, self._at
        if len(buffer) < at + 2:
            return None
        size, start = buffer[at + 1], at + 2
        if size >= _MORE:
            try:
                size, start = read_length(buffer, at + 1)
            except IndexError:
                return None
        end = start + size
        if end > len(buffer):
            if size > self._max_bytes():
                self._begin_large_packet(buffer[at], start, size)
            return None
        self._at = end
        return Packet(buffer[at], bytes(buffer[start:end]), size)

    def _begin_large_packet(self, first: int, start: int, size: int) -> None:
        """Store the beginning of a large packet, and skip the rest.

        When the end of the packet was received, `take` returns the stored beginning, so that the
        packet can be acknowledged.
        """
        stored_end = start + min(BEGINNING_BYTES, size)
        if len(self._buffer) < stored_end:
            return
        self._large_packet = Packet(first, bytes(self._buffer[start:stored_end]), size)
        self._to_skip = start + size - len(self._buffer)
        self._buffer, self._at = b"", 0

    def _take_large_packet(self) -> Packet | None:
        if self._to_skip:
            return None
        packet, self._large_packet = self._large_packet, None
        return packet


def read_length(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """Read a variable byte integer (MQTT 5, 1.5.5). Returns its value, and the index after it.

    Raises NotMqtt. Raises IndexError if the integer is not complete.
    """
    value = 0
    for place in range(_MAX_LENGTH_BYTES):
        byte = data[at + place]
        value |= (byte & ~_MORE) << 7 * place
        if byte < _MORE:
            return value, at + place + 1
    raise NotMqtt("a length of more than four bytes")
