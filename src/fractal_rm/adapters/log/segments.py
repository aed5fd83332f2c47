"""Segments: the files of a log, filled with zeros once and used again and again.

A position is the number of a segment, shifted, and a place in it: positions only grow. A segment
begins with a header, twice, so that a torn sector does not take both:

    magic "FRMlog" | format | number | salt | salt of the segment before | size of the file | crc

Between them and the first frame is a mark, from when the segment that follows was first synced on:
who deletes that one is found out (see `Log.sync`).

A file whose headers are zeros is free. So is one whose number is before the position from which the
log is read: what it holds is in the history.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from itertools import count, pairwise
from typing import NamedTuple
from zlib import crc32

import msgspec

from fractal_rm.adapters.log import frames
from fractal_rm.adapters.log.disk import Disk
from fractal_rm.adapters.log.frames import Frame
from fractal_rm.domain.journal_errors import JournalDamaged, JournalTooNew

FORMAT = 1
BEGIN = 4096  # of the first frame

_HEADER = struct.Struct("<6sHQQQQI")
_MAGIC = b"FRMlog"
HEADER_PLACES = (0, 2048)
HEADER_BYTES = _HEADER.size
_MARK = struct.Struct("<8sQ")  # magic, salt
MARK_PLACE = 3072  # in the sector of no header
READ_BYTES = 64 * 1024
_PLACE_BITS = 32


class Segment(msgspec.Struct, frozen=True):
    """A segment in use: the ``number``-th, in the file ``name``.

    ``salt`` is random, so that nothing that the file held before is taken for a part of it.
    ``before`` is the salt of the segment that it follows, so that none of another log is.
    """

    number: int
    name: str
    salt: int
    before: int
    size: int

    def __str__(self) -> str:
        return f"segment {self.number} (file {self.name})"


class Put(NamedTuple):
    """What was put, and the position behind it."""

    body: bytes
    end: int


class Files(msgspec.Struct):
    """The files of a log: ``segments`` by number, and the sizes of ``others``, which hold none."""

    segments: list[Segment]
    others: dict[str, int]


def position(number: int, place: int) -> int:
    """A place in a segment, as a position."""
    return number << _PLACE_BITS | place


def number_of(where: int) -> int:
    """The number of the segment of a position."""
    return where >> _PLACE_BITS


def look_through(disk: Disk) -> Files:
    """What is there. Raises JournalDamaged, JournalTooNew, OSError."""
    found = Files([], {})
    for name in disk.names():
        size = disk.size(name)
        segment = _segment_in(disk, name, size)
        if segment is None:
            found.others[name] = size
        else:
            found.segments.append(segment)
    found.segments.sort(key=lambda segment: segment.number)
    return found


def following(disk: Disk, found: Files, since: int) -> list[Segment]:
    """The segments that are not before a position, by number, one behind the other.

    Behind a gap there may be what a power cut has left of later ones. Raises JournalDamaged.
    """
    first = max(number_of(since), 1)
    wanted = [segment for segment in found.segments if segment.number >= first]
    if (since or wanted) and (not wanted or wanted[0].number != first):
        raise damaged(disk, f"segment {first} is missing")
    for one, other in pairwise(wanted):
        if one.number == other.number:
            raise damaged(disk, f"both {one.name} and {other.name} are segment {one.number}")
    return wanted


def follows(segment: Segment, before: Segment) -> bool:
    """Whether one was begun behind the other."""
    return segment.number == before.number + 1 and segment.before == before.salt


def frames_since(disk: Disk, segment: Segment, since: int) -> Iterator[Frame]:
    """What a segment holds from a position on. Raises OSError."""
    return frames_in(partial(disk.read, segment.name), segment, begin_of(segment, since))


def frames_in(read: Callable[[int, int], bytes], segment: Segment, place: int) -> Iterator[Frame]:
    """Those from ``place`` on; where there is none, hardly more than a head is read.

    ``read`` takes how many bytes, and from where. A segment as a whole would leave the process
    larger than it was.
    """
    wanted = frames.HEAD_BYTES
    while True:
        data = read(wanted, place)
        begin = place
        for frame in frames.scan(data, salt=segment.salt, place=place, offset=begin):
            yield frame
            place = frame.end
        size = min(frames.size_at(data, place - begin), segment.size - place)
        if place == begin and size <= wanted:
            return
        wanted = max(READ_BYTES, size)


def with_what_follows(found: Iterator[Frame], number: int) -> Iterator[tuple[Frame, int, bool]]:
    """Frames of a segment, the position behind each, and whether a later one says it was synced."""
    waiting: deque[tuple[Frame, int]] = deque()
    for frame in found:
        while waiting and waiting[0][1] <= frame.synced:
            yield *waiting.popleft(), True
        waiting.append((frame, position(number, frame.end)))
    for frame, end in waiting:
        yield frame, end, False


def begin_of(segment: Segment, since: int) -> int:
    """The place from which a segment is read."""
    return since & ((1 << _PLACE_BITS) - 1) if segment.number == number_of(since) else BEGIN


def encode_header(segment: Segment) -> bytes:
    """What stands at each of `HEADER_PLACES`."""
    fields = (_MAGIC, FORMAT, segment.number, segment.salt, segment.before, segment.size)
    return _HEADER.pack(*fields, crc32(_HEADER.pack(*fields, 0)))


def decode_header(disk: Disk, name: str, data: bytes) -> Segment | None:
    """The segment that a file's first bytes say it holds; None: neither header holds.

    Raises JournalTooNew.
    """
    if len(data) < BEGIN:
        return None
    for place in HEADER_PLACES:
        *fields, crc = _HEADER.unpack_from(data, place)
        magic, written_by, number, salt, before, size = fields
        if magic != _MAGIC or crc32(_HEADER.pack(*fields, 0)) != crc:
            continue
        if written_by > FORMAT:
            raise JournalTooNew(
                f"{disk.where} was written by a newer release (format {written_by}, this one"
                f" reads {FORMAT}); start that release again"
            )
        return Segment(number, name, salt, before, size)
    return None


def encode_mark(segment: Segment) -> bytes:
    """What stands at `MARK_PLACE`: the segment that follows on this one is on the disk."""
    return _MARK.pack(b"FRMnext", segment.salt)


def is_marked(data: bytes, segment: Segment) -> bool:
    """Whether a segment that follows on this one is known to have been on the disk."""
    return data[MARK_PLACE : MARK_PLACE + _MARK.size] == encode_mark(segment)


def has_mark(disk: Disk, segment: Segment) -> bool:
    """As `is_marked`, of what is in the file now. Raises OSError."""
    return is_marked(disk.read(segment.name, BEGIN), segment)


def begin_alone(disk: Disk, number: int, salt: int) -> int:
    """Make a small segment that follows on none, durable; returns the position where it begins.

    Who is to read from there on needs none of the others. Raises OSError.
    """
    taken = disk.names()
    name = next(name for name in map(str, count(1)) if name not in taken)
    disk.create(name, 2 * BEGIN)
    header = encode_header(Segment(number, name, salt, 0, 2 * BEGIN))
    for place in HEADER_PLACES:
        disk.write(name, place, header)
    disk.sync(name)
    return position(number, BEGIN)


def _segment_in(disk: Disk, name: str, size: int) -> Segment | None:
    """The segment that a file holds; None: its headers are zeros, or were not written whole."""
    data = disk.read(name, BEGIN)
    segment = decode_header(disk, name, data)
    if segment is not None:
        if segment.size != size:
            raise damaged(disk, f"file {name} has {size} bytes and was made with {segment.size}")
        return segment
    if len(data) == BEGIN and has_lost_header(data):
        raise damaged(disk, f"file {name} has no header that holds")
    return None


def has_lost_header(data: bytes) -> bool:
    """Of a file in which no header holds: whether there were any."""
    return all(any(data[place : place + HEADER_BYTES]) for place in HEADER_PLACES)


def damaged(disk: Disk, what: str) -> JournalDamaged:
    """What does not hold, and what can be done."""
    return JournalDamaged(
        f"{disk.where} is damaged: {what}. Nothing was changed. Put the files back as they were, or"
        " look at it with `fractal-rm journal check`: `fractal-rm journal repair` goes on with what"
        " can be read"
    )


class Reused(JournalDamaged):
    """A segment was used again while it was read: what it held is in the history by now."""

    code = "segment-reused"


def bodies_since(disk: Disk, since: int) -> list[Put]:
    """What is there from a position on, read beside the process that writes.

    Raises JournalDamaged (also where the position is one that was released), JournalTooNew,
    OSError.
    """
    bodies: list[Put] = []
    damage = None
    try:
        wanted = following(disk, look_through(disk), since)
        try:
            bodies += _bodies(disk, wanted, since)
        except JournalDamaged as error:
            damage = error
        now = look_through(disk).segments
    except FileNotFoundError as error:  # released, and deleted
        raise Reused(f"{disk.where} cannot be read: {error.filename} is gone") from error
    if not {segment.number for segment in wanted} <= {segment.number for segment in now}:
        raise Reused(f"{disk.where} cannot be read: its files were used again meanwhile")
    if damage is not None:
        raise damage
    return bodies


def _bodies(disk: Disk, wanted: list[Segment], since: int) -> Iterator[Put]:
    for at, segment in enumerate(wanted):
        ended = yield from _bodies_in(disk, wanted[at:], begin_of(segment, since))
        if not ended:
            return
        if at + 1 == len(wanted) or not follows(wanted[at + 1], segment):
            _check_last(disk, segment)
            return


def _bodies_in(disk: Disk, found: list[Segment], place: int) -> Generator[Put, None, bool]:
    """What the first one holds from a place on; returns whether another was begun behind it."""
    segment, is_more_known = found[0], False
    while True:
        begin = place
        for frame in frames_in(partial(disk.read, segment.name), segment, place):
            if not frame.body:
                return True
            place = frame.end
            yield Put(frame.body, position(segment.number, place))
        if is_more_known and place == begin:  # nor has it been written meanwhile
            raise damaged(disk, f"{segment} does not hold at byte {place}")
        is_more_known = was_synced(disk, found, place) or has_mark(disk, segment)
        if not is_more_known:
            return False


def _check_last(disk: Disk, last: Segment) -> None:
    """Is one missing behind it? Raises JournalDamaged."""
    if not has_mark(disk, last):  # before the look: what it tells of is there by then
        return
    if not any(follows(each, last) for each in look_through(disk).segments):
        raise damaged(disk, f"{last} is not the last one")


def was_synced(disk: Disk, found: Sequence[Segment], place: int) -> bool:
    """Whether a later frame says that more was synced than holds: up to a place in the first.

    Else the log ends there, and what is behind may be anything. Raises OSError.
    """
    end = position(found[0].number, place)
    for segment in found:
        if _knows_more(disk, segment, place, end):
            return True
        place = BEGIN
    return False


def _knows_more(disk: Disk, segment: Segment, place: int, end: int) -> bool:
    """Whether a frame from a place on, whatever is before it, says that more was synced."""
    heads = frames.heads_synced_in(range(number_of(end), segment.number + 1))
    for offset in range(place, segment.size, READ_BYTES):
        data = disk.read(segment.name, READ_BYTES + frames.HEAD_BYTES, offset)
        for head in heads.finditer(data):
            here = offset + head.start()
            whole = disk.read(segment.name, frames.size_at(data, head.start()), here)
            frame = frames.decode(whole, salt=segment.salt, place=here, offset=here)
            if frame is not None and frame.synced > end:
                return True
    return False
