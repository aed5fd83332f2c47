"""Segments: the files of a log. A file is filled with zeros once and then reused.

A place is an offset in bytes from the start of a segment. A position is the number of a segment,
shifted left by 32 bits, plus a place in it. Positions only increase.

A segment begins with a header. The header is stored twice, as a torn sector may destroy one copy:

    magic "FRMlog" | format | number | salt | salt of the previous segment | size of the file | crc

When the next segment is first synced, a mark is written between the headers and the first frame
(see `Log.sync`). The mark shows that a next segment existed, so a deleted segment is noticed.

A file whose headers are zeros is free. A file is also free if its segment is before the position
from which the log is read: the history has the content of this segment.
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
BEGIN = 4096  # the place of the first frame

_HEADER = struct.Struct("<6sHQQQQI")
_MAGIC = b"FRMlog"
HEADER_PLACES = (0, 2048)
HEADER_BYTES = _HEADER.size
_MARK = struct.Struct("<8sQ")  # magic, salt
MARK_PLACE = 3072  # not in the sector of a header
READ_BYTES = 64 * 1024
FlaggedFrame = tuple[Frame, int, bool]  # the frame, the position after it, whether it is synced
_PLACE_BITS = 32


class Segment(msgspec.Struct, frozen=True):
    """A segment in use: the ``number``-th segment of the log, in the file ``name``.

    ``salt`` is random, so that old content of the file is not read as content of this segment.
    ``previous_salt`` is the salt of the segment before this one: it tells whether two segments
    belong to the same log. ``size`` is the size of the file in bytes.
    """

    number: int
    name: str
    salt: int
    previous_salt: int
    size: int

    def __str__(self) -> str:
        return f"segment {self.number} (file {self.name})"


class PlacedBody(NamedTuple):
    """A body in the log, and the position after it."""

    body: bytes
    end: int


class Files(msgspec.Struct):
    """The files of a log: ``segments`` in order of number, and the sizes of ``others`` by name."""

    segments: list[Segment]
    others: dict[str, int]


def position(number: int, place: int) -> int:
    """The position of a place in a segment."""
    return number << _PLACE_BITS | place


def segment_number_at(position: int) -> int:
    """The number of the segment that contains a position."""
    return position >> _PLACE_BITS


def read_headers(disk: Disk) -> Files:
    """Read the headers of all files. Raises JournalDamaged, JournalTooNew, OSError."""
    files = Files([], {})
    for name in disk.names():
        size = disk.size(name)
        segment = _segment_in(disk, name, size)
        if segment is None:
            files.others[name] = size
        else:
            files.segments.append(segment)
    files.segments.sort(key=lambda segment: segment.number)
    return files


def segments_from(disk: Disk, files: Files, since: int) -> list[Segment]:
    """The segments from a position on, in order of number. Raises JournalDamaged.

    The numbers may have gaps: a power loss may lose a segment, and keep a later segment.
    """
    first = max(segment_number_at(since), 1)
    segments = [segment for segment in files.segments if segment.number >= first]
    if (since or segments) and (not segments or segments[0].number != first):
        raise damaged(disk, f"segment {first} is missing")
    for earlier, later in pairwise(segments):
        if earlier.number == later.number:
            raise damaged(
                disk, f"files {earlier.name} and {later.name} both contain segment {earlier.number}"
            )
    return segments


def follows(segment: Segment, previous: Segment) -> bool:
    """Whether ``segment`` is the next segment after ``previous``."""
    return segment.number == previous.number + 1 and segment.previous_salt == previous.salt


def frames_from(disk: Disk, segment: Segment, since: int) -> Iterator[Frame]:
    """The frames of a segment from a position on. Raises OSError."""
    return frames_in(partial(disk.read, segment.name), segment, start_place(segment, since))


def frames_in(read: Callable[[int, int], bytes], segment: Segment, place: int) -> Iterator[Frame]:
    """Yield the frames from ``place`` on.

    ``read`` is called with a number of bytes and a place. If there is no frame, only the bytes of
    a frame head are read. Segments are read in parts, as the memory of a large read would not be
    returned to the system.
    """
    read_bytes = frames.HEAD_BYTES
    while True:
        data = read(read_bytes, place)
        begin = place
        for frame in frames.scan(data, salt=segment.salt, place=place, offset=begin):
            yield frame
            place = frame.end
        size = min(frames.size_at(data, place - begin), segment.size - place)
        if place == begin and size <= read_bytes:
            return
        read_bytes = max(READ_BYTES, size)


def with_synced_flags(segment_frames: Iterator[Frame], number: int) -> Iterator[FlaggedFrame]:
    """Yield each frame, the position after it, and whether it is known to be synced.

    A later frame shows this by its ``synced`` position.
    """
    waiting: deque[tuple[Frame, int]] = deque()  # each with the position after it
    for frame in segment_frames:
        while waiting and waiting[0][1] <= frame.synced:
            yield *waiting.popleft(), True
        waiting.append((frame, position(number, frame.end)))
    for frame, end in waiting:
        yield frame, end, False


def start_place(segment: Segment, since: int) -> int:
    """The place from which to read a segment, if the log is read from position ``since`` on."""
    return since & ((1 << _PLACE_BITS) - 1) if segment.number == segment_number_at(since) else BEGIN


def encode_header(segment: Segment) -> bytes:
    """The bytes of a header, as written at each of `HEADER_PLACES`."""
    fields = (_MAGIC, FORMAT, segment.number, segment.salt, segment.previous_salt, segment.size)
    return _HEADER.pack(*fields, crc32(_HEADER.pack(*fields, 0)))


def decode_header(disk: Disk, name: str, data: bytes) -> Segment | None:
    """The segment according to the first bytes of a file; None: neither header is valid.

    Raises JournalTooNew.
    """
    if len(data) < BEGIN:
        return None
    for place in HEADER_PLACES:
        *fields, crc = _HEADER.unpack_from(data, place)
        magic, format_number, number, salt, previous_salt, size = fields
        if magic != _MAGIC or crc32(_HEADER.pack(*fields, 0)) != crc:
            continue
        if format_number > FORMAT:
            raise JournalTooNew(
                f"{disk.where} was written by a newer release (format {format_number}, this one"
                f" reads {FORMAT}); start that release again"
            )
        return Segment(number, name, salt, previous_salt, size)
    return None


def encode_mark(segment: Segment) -> bytes:
    """The bytes of the mark at `MARK_PLACE`. The mark shows that the next segment was synced."""
    return _MARK.pack(b"FRMnext", segment.salt)


def has_mark(data: bytes, segment: Segment) -> bool:
    """Whether ``data`` of this segment shows that a next segment was on the disk."""
    return data[MARK_PLACE : MARK_PLACE + _MARK.size] == encode_mark(segment)


def file_has_mark(disk: Disk, segment: Segment) -> bool:
    """Read the first bytes of a segment, and return the result of `has_mark`. Raises OSError."""
    return has_mark(disk.read(segment.name, BEGIN), segment)


def create_first_segment(disk: Disk, number: int, salt: int) -> int:
    """Create the first segment of a new log, and sync it. Returns the position of its first frame.

    A log that is opened at this position needs no earlier segment. Raises OSError.
    """
    used_names = disk.names()
    name = next(name for name in map(str, count(1)) if name not in used_names)
    disk.create(name, 2 * BEGIN)
    header = encode_header(Segment(number, name, salt, 0, 2 * BEGIN))
    for place in HEADER_PLACES:
        disk.write(name, place, header)
    disk.sync(name)
    return position(number, BEGIN)


def _segment_in(disk: Disk, name: str, size: int) -> Segment | None:
    """The segment in a file; None: its headers are zeros or incomplete. Raises JournalDamaged."""
    data = disk.read(name, BEGIN)
    segment = decode_header(disk, name, data)
    if segment is not None:
        if segment.size != size:
            raise damaged(
                disk, f"file {name} has {size} bytes, but was created with {segment.size}"
            )
        return segment
    if len(data) == BEGIN and has_lost_header(data):
        raise damaged(disk, f"file {name} has no valid header")
    return None


def has_lost_header(data: bytes) -> bool:
    """Whether a file without a valid header had one: each of its places has a byte above zero."""
    return all(any(data[place : place + HEADER_BYTES]) for place in HEADER_PLACES)


def damaged(disk: Disk, fault: str) -> JournalDamaged:
    """The error for a damaged log. Its text says what to do."""
    return JournalDamaged(
        f"{disk.where} is damaged: {fault}. Nothing was changed. Restore the files, or inspect them"
        " with `fractal-rm journal check`; `fractal-rm journal repair` keeps all that can be read"
    )


class SegmentReleased(JournalDamaged):
    """A segment was released during a read. The history has the content of the segment."""

    code = "segment-reused"


def bodies_since(disk: Disk, since: int) -> list[PlacedBody]:
    """The bodies from a position on, read while another process may write.

    Raises SegmentReleased if the other process released one of the segments during the read. Also
    raises JournalDamaged, JournalTooNew, OSError.
    """
    bodies: list[PlacedBody] = []
    damage = None
    try:
        segments = segments_from(disk, read_headers(disk), since)
        try:
            bodies += _bodies(disk, segments, since)
        except JournalDamaged as error:
            damage = error
        numbers_after = {segment.number for segment in read_headers(disk).segments}
    except FileNotFoundError as error:  # the segment was released and deleted
        message = f"{disk.where} cannot be read: {error.filename} was deleted during the read"
        raise SegmentReleased(message) from error
    if not {segment.number for segment in segments} <= numbers_after:
        raise SegmentReleased(f"{disk.where} cannot be read: a segment was reused during the read")
    if damage is not None:
        raise damage
    return bodies


def _bodies(disk: Disk, segments: list[Segment], since: int) -> Iterator[PlacedBody]:
    for at, segment in enumerate(segments):
        has_next = yield from _bodies_in(disk, segments[at:], start_place(segment, since))
        if not has_next:
            return
        if at + 1 == len(segments) or not follows(segments[at + 1], segment):
            _check_last_segment(disk, segment)
            return


def _bodies_in(
    disk: Disk, segments: list[Segment], place: int
) -> Generator[PlacedBody, None, bool]:
    """Yield the bodies of the first segment from a place on. Returns whether a next one begins."""
    segment, is_damage = segments[0], False
    while True:
        begin = place
        for frame in frames_in(partial(disk.read, segment.name), segment, place):
            if not frame.body:
                return True
            place = frame.end
            yield PlacedBody(frame.body, position(segment.number, place))
        if is_damage and place == begin:  # the last pass through the loop has found no new frame
            raise damaged(disk, f"{segment} is not valid at byte {place}")
        is_damage = was_synced_beyond(disk, segments, place) or file_has_mark(disk, segment)
        if not is_damage:
            return False


def _check_last_segment(disk: Disk, last: Segment) -> None:
    """Raise JournalDamaged if the last segment has a mark, but there is no next segment."""
    # Read the mark first: it is written after the next segment is created.
    if not file_has_mark(disk, last):
        return
    if not any(follows(each, last) for each in read_headers(disk).segments):
        raise damaged(disk, f"{last} had a next segment, which is missing")


def was_synced_beyond(disk: Disk, segments: Sequence[Segment], place: int) -> bool:
    """Whether a later frame shows that the log was synced beyond ``place`` in the first segment.

    If not, the log ends there, and the bytes after ``place`` may be anything. Raises OSError.
    """
    end = position(segments[0].number, place)
    for segment in segments:
        if _shows_later_sync(disk, segment, place, end):
            return True
        place = BEGIN
    return False


def _shows_later_sync(disk: Disk, segment: Segment, place: int, end: int) -> bool:
    """Whether any frame after ``place``, even after a gap, has a synced position after ``end``."""
    heads = frames.heads_synced_in(range(segment_number_at(end), segment.number + 1))
    for offset in range(place, segment.size, READ_BYTES):
        data = disk.read(segment.name, READ_BYTES + frames.HEAD_BYTES, offset)
        for head in heads.finditer(data):
            begin = offset + head.start()
            content = disk.read(segment.name, frames.size_at(data, head.start()), begin)
            frame = frames.decode(content, salt=segment.salt, place=begin, offset=begin)
            if frame is not None and frame.synced > end:
                return True
    return False
