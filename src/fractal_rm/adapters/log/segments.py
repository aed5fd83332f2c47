"""The log: bodies one behind the other, in segments that are filled with zeros once and used again.

A position is the number of a segment, shifted, and a place in it: positions only grow. A segment
begins with its number and a salt, twice, so that a torn sector does not take both:

    magic "FRMlog" | format | number | salt | crc

The last frame of a full segment is empty: there is a next one. A process begins with a segment of
its own, so that what an earlier one left behind its end is never read again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from errno import ENOSPC
from zlib import crc32

import msgspec

from fractal_rm.adapters.log import frames
from fractal_rm.adapters.log.disk import Disk
from fractal_rm.domain.errors import JournalBlocked, JournalDamaged, JournalFull, JournalTooNew

FORMAT = 1
SEGMENT_BYTES = 4 * 1024 * 1024
MOST_BYTES = 64 * 1024 * 1024  # of segments that are not released
FREE_KEPT = 2

_HEADER = struct.Struct("<6sHQQI")
_MAGIC = b"FRMlog"
_HEADER_PLACES = (0, 2048)
_BEGIN = 4096  # of the first frame
_PLACE_BITS = 32


class Segment(msgspec.Struct, frozen=True):
    """A segment in use: the ``number``-th, in the file ``name``."""

    number: int
    name: str
    salt: int
    size: int


class Log:
    """Written by one process: `put` on the event loop, `sync` on a thread beside it.

    ``salt`` makes random numbers of 64 bits.
    """

    def __init__(
        self,
        disk: Callable[[], Disk],
        salt: Callable[[], int],
        *,
        segment_bytes: int = SEGMENT_BYTES,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._open_disk = disk
        self._salt = salt
        self._segment_bytes = segment_bytes
        self._most_bytes = most_bytes
        self._used: list[Segment] = []  # by number; the last one is written
        self._free: dict[str, int] = {}  # files and their sizes
        self._being_made: str | None = None
        self._place = 0
        self._end = 0
        self._synced = 0
        self.on_put: Callable[[], None] = _nothing
        self._disk: Disk

    @property
    def end(self) -> int:
        """The position behind what was put."""
        return self._end

    @property
    def synced(self) -> int:
        """The position up to which all outlives the power."""
        return self._synced

    @property
    def waiting_bytes(self) -> int:
        """What the segments take that are not released."""
        return sum(segment.size for segment in self._used)

    def open(self, since: int) -> Iterator[bytes]:
        """The bodies from a position on (0: all), and then begin to write behind them.

        Raises JournalDamaged, JournalTooNew, JournalBlocked, OSError.
        """
        self._disk = self._open_disk()
        found, free = look_through(self._disk)
        self._free = free | {each.name: each.size for each in found}
        self._synced = since
        left = following(found, since)
        while left:
            segment = left.pop(0)
            self._used.append(segment)
            del self._free[segment.name]
            self._place = _begin_of(segment, since)
            data = self._disk.read(segment.name)
            ended = False
            for frame in frames.scan(data, salt=segment.salt, place=self._place):
                ended = not frame.body
                if frame.body:
                    yield frame.body
                    self._place = frame.end
            self._end = position(segment.number, self._place)
            if not ended or (left and left[0].number != segment.number + 1):
                self._check_torn(data, left)
                break
        for segment in left:
            self._forget(segment)
        self._begin(self._used[-1].number + 1 if self._used else number_of(since) + 1, 0)
        self.sync()

    def _check_torn(self, data: bytes, later: list[Segment]) -> None:
        """What does not hold at `end`: was it never synced? Raises JournalDamaged."""
        end, segment = self.end, self._used[-1]
        synced = frames.latest_synced(data, salt=segment.salt, place=self._place)
        for each in later:
            data = self._disk.read(each.name)
            synced = max(synced, frames.latest_synced(data, salt=each.salt, place=0))
        if synced > end:
            raise JournalDamaged(
                f"of the log, segment {segment.number} does not hold at byte {self._place}"
            )

    def _forget(self, segment: Segment) -> None:
        """A segment behind what was lost with the power: its number comes again."""
        for place in _HEADER_PLACES:
            self._disk.write(segment.name, place, bytes(_HEADER.size))
        self._disk.sync(segment.name)

    def put(self, body: bytes) -> None:
        """Hand a body to the system.

        Raises JournalFull, and what a disk raises; then nothing was put.
        """
        room = frames.room_for(len(body))
        segment = self._used[-1]
        if self._place + room + frames.room_for(0) > segment.size:
            self._begin(segment.number + 1, room)
        self._write(body)
        self.on_put()

    def sync(self) -> None:
        """Wait until all that was put before is on the disk."""
        since, end = self._synced, self._end
        for segment in self._used.copy():
            if number_of(since) <= segment.number <= number_of(end):
                self._disk.sync(segment.name)
        self._synced = end

    def release(self, until: int) -> None:
        """What stands before a position is kept elsewhere: its segments are used again."""
        number = number_of(until)
        for segment in [each for each in self._used if each.number < number]:
            self._used.remove(segment)
            if segment.size == self._segment_bytes and len(self._free) < FREE_KEPT:
                self._free[segment.name] = segment.size
            else:
                self._disk.delete(segment.name)

    def prepare(self) -> None:
        """Have a free segment ready, on a thread beside: to fill one takes a while.

        Raises JournalFull, OSError.
        """
        if not self._free and self._being_made is None:
            self._being_made = name = self._new_name()
            try:
                self._create(name, self._segment_bytes)
                self._free[name] = self._segment_bytes
            finally:
                self._being_made = None

    def check(self) -> None:
        """Raise JournalGone where what was put would not be found again."""
        self._disk.check()

    def close(self) -> None:
        """Let go of the files."""
        self._disk.close()

    def _begin(self, number: int, room: int) -> None:
        """Go on in the next segment, which has room for a frame of that size."""
        size = max(self._segment_bytes, _BEGIN + room + frames.room_for(0))
        name = next((name for name, has in self._free.items() if has == size), None)
        if name is None:
            if self.waiting_bytes + size > self._most_bytes and self._used:
                raise JournalFull(
                    f"{self.waiting_bytes} bytes of the log are not in the history yet; look"
                    " whether the disk is full, or another program holds the history"
                )
            name = self._new_name()
            self._create(name, size)
        self._free.pop(name, None)
        if self._used:
            self._write(b"")
        segment = Segment(number, name, self._salt(), size)
        header = _encode_header(segment)
        for place in _HEADER_PLACES:
            self._disk.write(name, place, header)
        self._used.append(segment)
        self._place = _BEGIN
        self._end = position(number, _BEGIN)

    def _create(self, name: str, size: int) -> None:
        try:
            self._disk.create(name, size)
        except OSError as error:
            if error.errno != ENOSPC:
                raise
            raise JournalFull("the disk is full; make room, or set state.path elsewhere") from error

    def _new_name(self) -> str:
        taken = {segment.name for segment in self._used} | self._free.keys() | {self._being_made}
        return next(name for name in map(str, range(1, len(taken) + 2)) if name not in taken)

    def _write(self, body: bytes) -> None:
        segment, place = self._used[-1], self._place
        data = frames.encode(body, salt=segment.salt, place=place, synced=self._synced)
        self._disk.write(segment.name, place, data)
        self._place = place + len(data)
        self._end = position(segment.number, self._place)  # one value: `sync` reads it beside


def _nothing() -> None:
    pass


def position(number: int, place: int) -> int:
    """A place in a segment, as a position."""
    return number << _PLACE_BITS | place


def number_of(where: int) -> int:
    """The number of the segment of a position."""
    return where >> _PLACE_BITS


def bodies_since(disk: Disk, since: int) -> Iterator[bytes]:
    """Read beside the process that writes: what is there from a position on.

    Who asks looks afterwards whether the segments were used again meanwhile. Raises JournalDamaged,
    JournalTooNew, OSError.
    """
    found, _ = look_through(disk)
    for segment in following(found, since):
        ended = False
        place = _begin_of(segment, since)
        for frame in frames.scan(disk.read(segment.name), salt=segment.salt, place=place):
            ended = not frame.body
            if frame.body:
                yield frame.body
        if not ended:
            return


def look_through(disk: Disk) -> tuple[list[Segment], dict[str, int]]:
    """The segments by number, and the files that hold none, with their sizes."""
    found: list[Segment] = []
    free: dict[str, int] = {}
    for name in disk.names():
        data = disk.read(name)
        segment = _decode_header(name, data)
        if segment is None:
            free[name] = len(data)
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


def _begin_of(segment: Segment, since: int) -> int:
    """The place from which a segment is read."""
    return since & ((1 << _PLACE_BITS) - 1) if segment.number == number_of(since) else _BEGIN


def _encode_header(segment: Segment) -> bytes:
    fields = (_MAGIC, FORMAT, segment.number, segment.salt)
    return _HEADER.pack(*fields, crc32(_HEADER.pack(*fields, 0)))


def _decode_header(name: str, data: bytes) -> Segment | None:
    for place in _HEADER_PLACES:
        if len(data) < _BEGIN:
            return None
        magic, written_by, number, salt, crc = _HEADER.unpack_from(data, place)
        if magic == _MAGIC and crc32(_HEADER.pack(magic, written_by, number, salt, 0)) == crc:
            if written_by > FORMAT:
                raise JournalTooNew(f"the log was written by a newer release (format {written_by})")
            return Segment(number, name, salt, len(data))
    return None


__all__ = ["FORMAT", "JournalBlocked", "Log", "Segment", "bodies_since", "number_of", "position"]
