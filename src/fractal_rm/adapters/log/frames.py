"""Frames: what stands in a segment of the log, and how its end is told from damage.

    frame    magic "FRMf" | length | crc | 0 | synced | body, filled up to 8 bytes

``crc`` covers the salt of the segment, the frame's place in it and all that follows: a frame of an
earlier use of the same segment does not hold, nor one that stands elsewhere. ``synced`` is how far
the log was on the disk for certain when the frame was written, as a position. What is behind the
last whole frame was never acknowledged and may be anything (a power cut leaves sectors in any
order), unless a later frame says that it had been synced: then it is damage.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator
from zlib import crc32

import msgspec

ALIGNED_BYTES = 8
_MAGIC = b"FRMf"
_HEAD = struct.Struct("<4sIIIQ")
_NUMBER = struct.Struct("<I")  # of a segment: the upper half of a position
_COVERED = struct.Struct("<QQIQ")  # salt, place, length, synced
HEAD_BYTES = _HEAD.size
_FILLING = [bytes(-(HEAD_BYTES + length) % ALIGNED_BYTES) for length in range(ALIGNED_BYTES)]
MOST_ROOM = 2 * HEAD_BYTES + ALIGNED_BYTES  # beside a body: its head, and an empty frame behind it


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A frame that holds. ``end`` is where the next one begins, in bytes from the segment's start.

    The last frame of a segment that another one follows has an empty body.
    """

    body: bytes
    end: int
    synced: int


def room_for(body_bytes: int) -> int:
    """How many bytes a frame takes."""
    return -(-(HEAD_BYTES + body_bytes) // ALIGNED_BYTES) * ALIGNED_BYTES


def encode(body: bytes, *, salt: int, place: int, synced: int) -> bytes:
    """Make the frame that stands at ``place``."""
    length = len(body)
    crc = crc32(body, crc32(_COVERED.pack(salt, place, length, synced)))
    head = _HEAD.pack(_MAGIC, length, crc, 0, synced)
    return b"".join((head, body, _FILLING[length % ALIGNED_BYTES]))


def decode(data: bytes, *, salt: int, place: int, offset: int = 0) -> Frame | None:
    """The frame that stands at ``place``; None: there is none that holds.

    ``data`` is the segment from ``offset`` on.
    """
    at = place - offset
    if at + HEAD_BYTES > len(data):
        return None
    magic, length, crc, zero, synced = _HEAD.unpack_from(data, at)
    begin = at + HEAD_BYTES
    if magic != _MAGIC or zero != 0 or begin + length > len(data):
        return None
    body = data[begin : begin + length]
    if _crc(body, salt, place, synced) != crc:
        return None
    return Frame(body, place + room_for(length), synced)


def size_at(data: bytes, at: int) -> int:
    """How many bytes the frame takes that stands there in ``data``, as its head says; 0: none."""
    if at + HEAD_BYTES > len(data):
        return 0
    magic, length, *_ = _HEAD.unpack_from(data, at)
    return room_for(length) if magic == _MAGIC else 0


def heads_synced_in(segments: Iterable[int]) -> re.Pattern[bytes]:
    """What finds heads whose ``synced`` is in one of these segments.

    What an earlier use of a segment has left was synced in earlier ones: it is not looked at.
    """
    numbers = b"|".join(re.escape(_NUMBER.pack(number)) for number in segments)
    return re.compile(_MAGIC + b".{8}\0{4}.{4}(?:" + numbers + b")", re.DOTALL)


def scan(data: bytes, *, salt: int, place: int, offset: int = 0) -> Iterator[Frame]:
    """The frames from ``place`` on that follow each other and hold; see `decode`."""
    while True:
        frame = decode(data, salt=salt, place=place, offset=offset)
        if frame is None:
            return
        yield frame
        place = frame.end


def places(data: bytes, place: int = 0) -> Iterator[int]:
    """Where a frame may begin, from ``place`` on, as its first bytes say."""
    at = data.find(_MAGIC, place)
    while at >= 0:
        yield at
        at = data.find(_MAGIC, at + 1)


def all_behind(data: bytes, *, salt: int, place: int) -> Iterator[tuple[int, Frame]]:
    """Every frame from ``place`` on that holds, with its place, whatever stands between them."""
    for at in places(data, place):
        frame = decode(data, salt=salt, place=at) if at >= place else None
        if frame is not None:
            yield at, frame
            place = frame.end


def crcs_at(data: bytes, place: int) -> tuple[Callable[[int], int], int] | None:
    """Of what may be a frame: its checksum by the salt, and the one it has; None: it is cut."""
    if place + HEAD_BYTES > len(data):
        return None
    _, length, crc, _, synced = _HEAD.unpack_from(data, place)
    begin = place + HEAD_BYTES
    if begin + length > len(data):
        return None
    body = data[begin : begin + length]
    return (lambda salt: _crc(body, salt, place, synced)), crc


def latest_synced(data: bytes, *, salt: int, place: int) -> int:
    """The latest position that a frame behind ``place`` knows to have been synced; 0: none does."""
    found = all_behind(data, salt=salt, place=place)
    return max((frame.synced for _, frame in found), default=0)


def _crc(body: bytes, salt: int, place: int, synced: int) -> int:
    return crc32(body, crc32(_COVERED.pack(salt, place, len(body), synced)))
