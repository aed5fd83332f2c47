"""The log: bodies one behind the other, in segments (see `segments`), each in a frame (`frames`).

The last frame of a full segment is empty: there is a next one. A process begins with a segment of
its own, so that what an earlier one left behind its end is never read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from errno import EDQUOT, ENOSPC

from fractal_rm.adapters.log import frames
from fractal_rm.adapters.log.disk import Disk
from fractal_rm.adapters.log.segments import (
    BEGIN,
    HEADER_BYTES,
    HEADER_PLACES,
    Segment,
    begin_of,
    encode_header,
    following,
    look_through,
    number_of,
    position,
)
from fractal_rm.domain.errors import JournalDamaged, JournalFull

SEGMENT_BYTES = 4 * 1024 * 1024
MOST_BYTES = 64 * 1024 * 1024  # of segments that are not released
FREE_KEPT = 2


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
        yield from self.read(since)
        self._begin(self._used[-1].number + 1 if self._used else number_of(since) + 1, 0)
        self.sync()

    def read(self, since: int) -> Iterator[bytes]:
        """The bodies from a position on, of a log that no process writes; `sync` makes them last.

        Raises JournalDamaged, JournalTooNew, OSError.
        """
        self._disk = self._open_disk()
        found, free = look_through(self._disk)
        self._free = free | {each.name: each.size for each in found}
        self._synced = self._end = since
        left = following(found, since)
        while left:
            segment = left.pop(0)
            self._used.append(segment)
            del self._free[segment.name]
            self._place = begin_of(segment, since)
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
        for place in HEADER_PLACES:
            self._disk.write(segment.name, place, bytes(HEADER_BYTES))
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
        size = max(self._segment_bytes, BEGIN + room + frames.room_for(0))
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
        header = encode_header(segment)
        for place in HEADER_PLACES:
            self._disk.write(name, place, header)
        self._used.append(segment)
        self._place = BEGIN
        self._end = position(number, BEGIN)

    def _create(self, name: str, size: int) -> None:
        try:
            self._disk.create(name, size)
        except OSError as error:
            raise _full(error) from error

    def _new_name(self) -> str:
        taken = {segment.name for segment in self._used} | self._free.keys() | {self._being_made}
        return next(name for name in map(str, range(1, len(taken) + 2)) if name not in taken)

    def _write(self, body: bytes) -> None:
        segment, place = self._used[-1], self._place
        data = frames.encode(body, salt=segment.salt, place=place, synced=self._synced)
        try:
            self._disk.write(segment.name, place, data)
        except OSError as error:  # file systems that copy on write need room for it
            raise _full(error) from error
        self._place = place + len(data)
        self._end = position(segment.number, self._place)  # one value: `sync` reads it beside


def _nothing() -> None:
    pass


def _full(error: OSError) -> OSError | JournalFull:
    if error.errno not in (ENOSPC, EDQUOT):
        return error
    return JournalFull("the disk is full; make room, or set state.path elsewhere")
