"""Splits the received bytes into MQTT packets (MQTT 5, 2.1).

Of a packet that is too large to become a run only the beginning is kept and the rest is skipped, so
that neither memory nor time depends on what a publisher sends.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from fractal_rm.domain.errors import FractalError

# Kept of a packet that is too large: enough for a topic of 64 KiB and for 64 KiB of body, which is
# what a dead letter keeps.
BEGINNING_BYTES = 128 * 1024
_MORE = 0x80  # the bit that says that the length continues in the next byte
_MAX_LENGTH_BYTES = 4


class NotMqtt(FractalError):
    """The received bytes are not MQTT: the connection cannot be used any more."""

    code = "not-mqtt"


class Packet(msgspec.Struct, frozen=True):
    """One packet. ``first`` is the byte with type and flags.

    ``data`` is what follows the fixed header, and ``size`` its length. ``data`` is shorter than
    ``size`` if only the beginning was kept.
    """

    first: int
    data: bytes
    size: int


class Packets:
    """Feed bytes, take packets. ``largest`` returns the size up to which a packet is kept whole."""

    def __init__(self, largest: Callable[[], int]) -> None:
        self._largest = largest
        self._buffer: bytes | bytearray = b""
        self._at = 0  # where the next packet begins in it
        self._cut: Packet | None = None  # a large packet whose rest is being skipped
        self._to_skip = 0  # bytes of it that have not come yet

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
        """The next packet, or None until more bytes come. Raises NotMqtt."""
        if self._cut is not None:
            return self._take_cut()
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
            return self._cut_off(buffer[at], start, size) if size > self._largest() else None
        self._at = end
        return Packet(buffer[at], bytes(buffer[start:end]), size)

    def _cut_off(self, first: int, start: int, size: int) -> Packet | None:
        """Keep the beginning. `take` returns it when the end has come: it can be answered then."""
        kept = start + min(BEGINNING_BYTES, size)
        if len(self._buffer) < kept:
            return None
        self._cut = Packet(first, bytes(self._buffer[start:kept]), size)
        self._to_skip = start + size - len(self._buffer)
        self._buffer, self._at = b"", 0
        return None

    def _take_cut(self) -> Packet | None:
        if self._to_skip:
            return None
        cut, self._cut = self._cut, None
        return cut


def read_length(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """A variable byte integer (MQTT 5, 1.5.5), and where it ends.

    Raises NotMqtt, and IndexError if not all of it has come.
    """
    value = 0
    for place in range(_MAX_LENGTH_BYTES):
        byte = data[at + place]
        value |= (byte & ~_MORE) << 7 * place
        if byte < _MORE:
            return value, at + place + 1
    raise NotMqtt("a length of more than four bytes")
