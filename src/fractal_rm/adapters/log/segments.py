"""Segments: the files of a log, filled with zeros once and used again and again.

A position is the number of a segment, shifted, and a place in it: positions only grow. A segment
begins with its number and a salt, twice, so that a torn sector does not take both:

    magic "FRMlog" | format | number | salt | crc
"""

from __future__ import annotations

import struct
from zlib import crc32

import msgspec

from fractal_rm.adapters.log import frames
from fractal_rm.adapters.log.disk import Disk
from fractal_rm.domain.errors import JournalDamaged, JournalTooNew

FORMAT = 1
BEGIN = 4096  # of the first frame

_HEADER = struct.Struct("<6sHQQI")
_MAGIC = b"FRMlog"
HEADER_PLACES = (0, 2048)
HEADER_BYTES = _HEADER.size
_PLACE_BITS = 32


class Segment(msgspec.Struct, frozen=True):
    """A segment in use: the ``number``-th, in the file ``name``."""

    number: int
    name: str
    salt: int
    size: int


def position(number: int, place: int) -> int:
    """A place in a segment, as a position."""
    return number << _PLACE_BITS | place


def number_of(where: int) -> int:
    """The number of the segment of a position."""
    return where >> _PLACE_BITS


def look_through(disk: Disk) -> tuple[list[Segment], dict[str, int]]:
    """The segments by number, and the files that hold none, with their sizes."""
    found: list[Segment] = []
    free: dict[str, int] = {}
    for name in disk.names():
        size = disk.size(name)
        segment = _decode_header(name, size, disk.read(name, BEGIN))
        if segment is None:
            free[name] = size
        else:
            found.append(segment)
    return sorted(found, key=lambda segment: segment.number), free


def following(found: list[Segment], since: int) -> list[Segment]:
    """Those that are not before a position, by number. Raises JournalDamaged: its own is gone."""
    first = max(number_of(since), 1)
    wanted = [segment for segment in found if segment.number >= first]
    if (since or wanted) and (not wanted or wanted[0].number != first):
        raise JournalDamaged(f"of the log, segment {first} is missing")
    return wanted


def begin_of(segment: Segment, since: int) -> int:
    """The place from which a segment is read."""
    return since & ((1 << _PLACE_BITS) - 1) if segment.number == number_of(since) else BEGIN


def encode_header(segment: Segment) -> bytes:
    """What stands at each of `HEADER_PLACES`."""
    fields = (_MAGIC, FORMAT, segment.number, segment.salt)
    return _HEADER.pack(*fields, crc32(_HEADER.pack(*fields, 0)))


def _decode_header(name: str, size: int, data: bytes) -> Segment | None:
    if len(data) < BEGIN:
        return None
    for place in HEADER_PLACES:
        magic, written_by, number, salt, crc = _HEADER.unpack_from(data, place)
        if magic == _MAGIC and crc32(_HEADER.pack(magic, written_by, number, salt, 0)) == crc:
            if written_by > FORMAT:
                raise JournalTooNew(f"the log was written by a newer release (format {written_by})")
            return Segment(number, name, salt, size)
    return None


class Reused(Exception):
    """A segment was used again while it was read: what it held is in the history by now."""


def bodies_since(disk: Disk, since: int) -> list[bytes]:
    """What is there from a position on, read beside the process that writes.

    Raises Reused, JournalDamaged (also where the position is one that was released), JournalTooNew,
    OSError.
    """
    found, _ = look_through(disk)
    wanted = following(found, since)
    bodies: list[bytes] = []
    for segment in wanted:
        ended = False
        place = begin_of(segment, since)
        for frame in frames.scan(disk.read(segment.name), salt=segment.salt, place=place):
            ended = not frame.body
            if frame.body:
                bodies.append(frame.body)
        if not ended:
            break
    now, _ = look_through(disk)
    if not {segment.number for segment in wanted} <= {segment.number for segment in now}:
        raise Reused
    return bodies
