"""Frames: the content of a segment of the log.

    frame    magic "FRMf" | length | crc | 0 | synced | body, padded to 8 bytes

``crc`` covers the salt of the segment, the place of the frame, and the rest of the frame. So a
frame from an earlier use of the file is invalid, and so is a frame that was moved to another place.

``synced`` is the position up to which the log was synced when the frame was written. A reader uses
it to distinguish the end of the log from damage. Usually the log ends at the first invalid frame:
this frame was never acknowledged, and a power loss may have left only some of its sectors.
But if a later frame has a ``synced`` position after the invalid frame, the invalid frame had been
synced. Then the log is damaged.
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
_NUMBER = struct.Struct("<I")  # a segment number: the upper half of a position
_COVERED = struct.Struct("<QQIQ")  # salt, place, length, synced
HEAD_BYTES = _HEAD.size
_PADDING = [bytes(-(HEAD_BYTES + length) % ALIGNED_BYTES) for length in range(ALIGNED_BYTES)]
OVERHEAD_BYTES = 2 * HEAD_BYTES + ALIGNED_BYTES  # of a body: head, padding, empty last frame


class Frame(msgspec.Struct, frozen=True, gc=False):
    """A valid frame. ``end`` is the place of the next frame, in bytes from the segment's start.

    The last frame of a segment has an empty body if another segment follows.
    """

    body: bytes
    end: int
    synced: int


def room_for(body_bytes: int) -> int:
    """How many bytes a frame with a body of this size takes."""
    return -(-(HEAD_BYTES + body_bytes) // ALIGNED_BYTES) * ALIGNED_BYTES


def encode(body: bytes, *, salt: int, place: int, synced: int) -> bytes:
    """The bytes of a frame that is written at ``place``."""
    length = len(body)
    crc = crc32(body, crc32(_COVERED.pack(salt, place, length, synced)))
    head = _HEAD.pack(_MAGIC, length, crc, 0, synced)
    return b"".join((head, body, _PADDING[length % ALIGNED_BYTES]))


def decode(data: bytes, *, salt: int, place: int, offset: int = 0) -> Frame | None:
    """The frame at ``place``; None: there is no valid frame.

    ``data`` is the content of the segment from ``offset`` on.
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
    """The size in bytes of the frame at ``at``, according to its head; 0: there is no head."""
    if at + HEAD_BYTES > len(data):
        return 0
    magic, length, *_ = _HEAD.unpack_from(data, at)
    return room_for(length) if magic == _MAGIC else 0


def heads_synced_in(segments: Iterable[int]) -> re.Pattern[bytes]:
    """A pattern that finds frame heads whose ``synced`` position is in one of these segments.

    Frames from earlier uses of a file have earlier positions, so the pattern skips them.
    """
    numbers = b"|".join(re.escape(_NUMBER.pack(number)) for number in segments)
    return re.compile(_MAGIC + b".{8}\0{4}.{4}(?:" + numbers + b")", re.DOTALL)


def scan(data: bytes, *, salt: int, place: int, offset: int = 0) -> Iterator[Frame]:
    """Yield the valid frames from ``place`` on, up to the first invalid one; see `decode`."""
    while True:
        frame = decode(data, salt=salt, place=place, offset=offset)
        if frame is None:
            return
        yield frame
        place = frame.end


def places(data: bytes, place: int = 0) -> Iterator[int]:
    """Yield the places from ``place`` on that have the magic bytes of a frame."""
    at = data.find(_MAGIC, place)
    while at >= 0:
        yield at
        at = data.find(_MAGIC, at + 1)


def all_valid_after(data: bytes, *, salt: int, place: int) -> Iterator[tuple[int, Frame]]:
    """Yield all valid frames from ``place`` on with their places, also the frames after gaps."""
    for at in places(data, place):
        frame = decode(data, salt=salt, place=at) if at >= place else None
        if frame is not None:
            yield at, frame
            place = frame.end


def crcs_at(data: bytes, place: int) -> tuple[Callable[[int], int], int] | None:
    """A function from a salt to the checksum of the frame at ``place``; and the stored checksum.

    The two checksums are not compared. Returns None if the frame is truncated.
    """
    if place + HEAD_BYTES > len(data):
        return None
    _, length, crc, _, synced = _HEAD.unpack_from(data, place)
    begin = place + HEAD_BYTES
    if begin + length > len(data):
        return None
    body = data[begin : begin + length]
    return (lambda salt: _crc(body, salt, place, synced)), crc


def latest_synced(data: bytes, *, salt: int, place: int) -> int:
    """The highest ``synced`` position of the frames after ``place``; 0: there are none."""
    valid_frames = all_valid_after(data, salt=salt, place=place)
    return max((frame.synced for _, frame in valid_frames), default=0)


def _crc(body: bytes, salt: int, place: int, synced: int) -> int:
    return crc32(body, crc32(_COVERED.pack(salt, place, len(body), synced)))
