"""Bytes into MQTT packets (MQTT 5, 2.1), however they come in pieces.

A packet of which nothing can become a run is read past: of a giant only the beginning is kept, so
neither memory nor time depends on what a publisher sends.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from fractal_rm.domain.errors import FractalError

# Of what is too large: a topic may have 64 KiB, and a dead letter keeps as much of a body.
BEGINNING_BYTES = 128 * 1024
_MORE = 0x80  # the bit by which a length goes on in the next byte
_LONGEST_LENGTH = 4


class NotMqtt(FractalError):
    """What comes cannot be read as MQTT: the connection is of no use any more."""

    code = "not-mqtt"


class Packet(msgspec.Struct, frozen=True):
    """``first`` is the byte of type and flags; ``size`` is more than ``data`` has where it is cut.

    ``data`` and ``size`` are of what follows the fixed header.
    """

    first: int
    data: bytes
    size: int


class Packets:
    """Bytes are fed, packets are taken. ``largest`` tells how long one may be to be kept whole."""

    def __init__(self, largest: Callable[[], int]) -> None:
        self._largest = largest
        self._buffer: bytes | bytearray = b""
        self._at = 0  # where the next packet begins in it
        self._cut: Packet | None = None  # waits for its end, which is not kept
        self._unread = 0  # so much of that is still to come

    def feed(self, data: bytes) -> None:
        """Take bytes that came."""
        if self._unread:
            past = min(self._unread, len(data))
            self._unread -= past
            data = data[past:]
        if self._at == len(self._buffer):
            self._buffer = data
        else:
            # A bytearray grows in place: a packet of many pieces is not copied for each of them.
            if self._at or not isinstance(self._buffer, bytearray):
                self._buffer = bytearray(self._buffer[self._at :])
            self._buffer += data
        self._at = 0

    def take(self) -> Packet | None:
        """The next packet, or None until more has come. Raises NotMqtt."""
        if self._cut is not None:
            return self._end_of_cut()
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
        """Keep the beginning when it is there. Taken when all has come: then it may be answered."""
        kept = start + min(BEGINNING_BYTES, size)
        if len(self._buffer) < kept:
            return None
        self._cut = Packet(first, bytes(self._buffer[start:kept]), size)
        self._unread = start + size - len(self._buffer)
        self._buffer, self._at = b"", 0
        return None

    def _end_of_cut(self) -> Packet | None:
        if self._unread:
            return None
        cut, self._cut = self._cut, None
        return cut


def read_length(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """A variable byte integer (MQTT 5, 1.5.5), and where it ends.

    Raises NotMqtt, and IndexError where it has not come whole.
    """
    value = 0
    for place in range(_LONGEST_LENGTH):
        byte = data[at + place]
        value |= (byte & ~_MORE) << 7 * place
        if byte < _MORE:
            return value, at + place + 1
    raise NotMqtt("a length of more than four bytes")
