"""The log: bodies one behind the other, in segments (see `segments`), each in a frame (`frames`).

Large values that a body names stand in files of their own (`blobs`). The last frame of a full
segment is empty: there is a next one. A process begins with a segment of its own, so that what an
earlier one left behind its end is never read again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import count

import msgspec

from fractal_rm.adapters.log import frames
from fractal_rm.adapters.log.blobs import Blobs
from fractal_rm.adapters.log.disk import Disk, refusal
from fractal_rm.adapters.log.records import refs_named
from fractal_rm.adapters.log.segments import (
    BEGIN,
    HEADER_BYTES,
    HEADER_PLACES,
    MARK_PLACE,
    Put,
    Segment,
    begin_of,
    damaged,
    encode_header,
    encode_mark,
    following,
    follows,
    frames_since,
    has_mark,
    look_through,
    number_of,
    position,
    was_synced,
    with_what_follows,
)
from fractal_rm.adapters.log.threads import Worker
from fractal_rm.adapters.log.timed import Blob
from fractal_rm.domain.journal_errors import JournalFull

SEGMENT_BYTES = 4 * 1024 * 1024
MOST_BYTES = 64 * 1024 * 1024  # of segments that are not released
FREE_KEPT = 4


class Log:
    """Written by one process: `open` what is there, `begin` behind it, `put`, `sync`, `release`.

    All is called on the event loop, but for `sync`, which a thread calls beside `put`: it reads
    `_used` and `_end`, and what it sets, `_synced`, only grows. ``salt`` makes random numbers of
    64 bits.
    """

    def __init__(
        self,
        disk: Callable[[], Disk],
        blobs: Blobs,
        salt: Callable[[], int],
        *,
        segment_bytes: int = SEGMENT_BYTES,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._open_disk = disk
        self._blobs = blobs
        self._salt = salt
        self._segment_bytes = segment_bytes
        self._most_bytes = most_bytes
        self._names: set[str] = set()  # of all files, also of one that is being made
        self._used: list[Segment] = []  # by number; the last one is written
        self._free: list[str] = []  # files of `segment_bytes`
        self._left: list[Segment] = []  # behind what was lost with the power
        self._place = 0
        self._lost = ""  # why what stands there does not hold, if that is a blob
        self._end = 0
        self._synced = 0
        self._tell_at = 0
        self._tell: Callable[[], None] = _nothing
        self._close: Callable[[], None] = _nothing
        self._disk: Disk

    @property
    def end(self) -> int:
        """The position behind what was put."""
        return self._end

    @property
    def synced(self) -> int:
        """The position up to which all outlives the power."""
        return self._synced

    # --- what is there --------------------------------------------------------------------------

    def open(self, since: int, sure_until: int = 0) -> Iterator[Put]:
        """What was put from a position on (0: all). Changes nothing; then `begin`.

        Up to ``sure_until`` it was synced; blobs of runs that have ended there may be gone.
        Raises JournalDamaged, JournalTooNew, OSError.
        """
        self._disk = self._open_disk()
        self._close = self._disk.close
        self._disk.make()
        found = look_through(self._disk)
        self._used, self._left = [], following(self._disk, found, since)
        self._names = {segment.name for segment in found.segments} | found.others.keys()
        sizes = found.others | {each.name: each.size for each in found.segments}
        for segment in self._left:
            del sizes[segment.name]
        self._free = [name for name, size in sizes.items() if size == self._segment_bytes]
        self._synced = self._end = since
        while self._left:
            segment = self._left.pop(0)
            self._used.append(segment)
            ended = yield from self._read(segment, since, sure_until)
            self._end = position(segment.number, self._place)
            if not ended or not self._left or not follows(self._left[0], segment):
                self._check_torn()
                self._check_last(ended)
                break

    def _read(self, segment: Segment, since: int, sure: int) -> Generator[Put, None, bool]:
        """What it holds; returns whether another one was begun behind it."""
        self._place, self._lost = begin_of(segment, since), ""
        found = frames_since(self._disk, segment, since)
        for frame, end, is_synced in with_what_follows(found, segment.number):
            if not frame.body:
                return True
            if end > sure and (lost := self._blobs.lost_in(frame.body, is_synced=is_synced)):
                self._lost = f": {lost}"
                return False
            self._place = frame.end
            yield Put(frame.body, end)
        return False

    def _check_torn(self) -> None:
        """What does not hold at `end`: was it never synced? Raises JournalDamaged."""
        last = self._used[-1]
        if was_synced(self._disk, (last, *self._left), self._place):
            raise damaged(self._disk, f"{last} {self._how()}")

    def _how(self) -> str:
        return f"does not hold at byte {self._place}{self._lost}"

    def _check_last(self, ended: bool) -> None:
        """Was there a segment behind the last one? Raises JournalDamaged."""
        last = self._used[-1]
        if has_mark(self._disk, last):
            how = "is not the last one" if ended else self._how()
            raise damaged(self._disk, f"{last} {how}")

    def begin(self) -> None:
        """Write from here on, behind all that was read. Raises JournalFull, OSError."""
        for segment in self._left:  # its number comes again
            for place in HEADER_PLACES:
                self._disk.write(segment.name, place, bytes(HEADER_BYTES))
            self._disk.sync(segment.name)
            self._set_free(segment)
        self._left = []
        if self._used and self._place == BEGIN:  # of a process that was killed before it wrote
            self._used[-1] = msgspec.structs.replace(self._used[-1], salt=self._salt())
            self._write_header(self._used[-1])
        else:
            self._go_on(number_of(self._end) + 1, self._segment_bytes)
        self.sync()

    # --- write ----------------------------------------------------------------------------------

    def new_blob(self) -> str:
        """A name that no blob has: 128 random bits."""
        return f"{self._salt():016x}{self._salt():016x}"

    def put(self, body: bytes, blobs: Sequence[Blob] = ()) -> None:
        """Hand a body to the system, behind the blobs that it names.

        Raises JournalFull, and what a disk raises; then nothing was put.
        """
        if not blobs:
            self._put(body, ())
            return
        try:
            names = self._blobs.write(blobs)
        except OSError as error:
            raise refusal(error) from error
        try:
            self._put(body, names)
        except BaseException:
            self._blobs.delete(names)
            raise

    def put_named(self, body: bytes) -> None:
        """Hand a body to the system whose blobs are there already. Raises as `put`."""
        self._put(body, [ref.name for ref in refs_named(body) if ref.name is not None])

    def _put(self, body: bytes, names: Sequence[str]) -> None:
        if self._place + frames.MOST_ROOM + len(body) > self._used[-1].size:
            size = max(self._segment_bytes, BEGIN + frames.MOST_ROOM + len(body))
            self._check_bound(size)
            self._go_on(self._used[-1].number + 1, size)
        self._write(body, names)
        if self._end >= self._tell_at:
            self._tell()

    def tell_at(self, place: int, tell: Callable[[], None]) -> None:
        """Call this at every `put` that comes to a position."""
        self._tell_at, self._tell = place, tell

    def sync(self) -> None:
        """Wait until all that was put before is on the disk."""
        since, end = self._synced, self._end
        self._blobs.sync()
        first, last = number_of(since), number_of(end)
        covered = [each for each in self._used.copy() if first <= each.number <= last]
        for segment in covered:
            self._disk.sync(segment.name)
        for segment in covered[:-1]:  # from here on one that is missing behind it is damage
            self._disk.write(segment.name, MARK_PLACE, encode_mark(segment))
            self._disk.sync(segment.name)
        self._synced = end

    def check(self) -> None:
        """Raise JournalGone where what was put would not be found again."""
        self._disk.check()
        self._blobs.files.check()

    def close(self) -> None:
        """Let go of the files."""
        self._close()
        self._blobs.files.close()

    # --- segments -------------------------------------------------------------------------------

    def release(self, until: int) -> None:
        """What stands before a position is kept elsewhere: its segments are used again."""
        number = number_of(until)
        for segment in [each for each in self._used if each.number < number]:
            self._used.remove(segment)
            self._set_free(segment)

    def _set_free(self, segment: Segment) -> None:
        if segment.size == self._segment_bytes and len(self._free) < FREE_KEPT:
            self._free.append(segment.name)
            return
        with suppress(PermissionError):  # what stays there is found free at the next start
            self._disk.delete(segment.name)
            self._names.discard(segment.name)

    async def prepare(self, thread: Worker) -> None:
        """Have a free segment ready. To fill one takes a while, and is done on a thread.

        Raises JournalFull, OSError.
        """
        if self._free:
            return
        name = self._new_name()
        self._names.add(name)  # while it is made, too
        try:
            await thread.run(partial(self._disk.create, name, self._segment_bytes))
        except OSError as error:
            self._names.discard(name)
            raise self._cause(error) from error
        self._free.append(name)

    async def find_room(self, thread: Worker) -> None:
        """Raise JournalFull where there is still no room for one more segment."""
        self._check_bound(self._segment_bytes)
        await self.prepare(thread)
        try:
            self._disk.hold(self._file_of(self._segment_bytes))
        except OSError as error:
            raise self._cause(error) from error

    def _check_bound(self, size: int) -> None:
        waiting = sum(segment.size for segment in self._used)
        if waiting + size > self._most_bytes:
            raise JournalFull(
                f"{waiting} bytes of the log are not in the history yet; look whether the disk is"
                " full, or another program holds the history"
            )

    def _go_on(self, number: int, size: int) -> None:
        """Write into the next segment: a free one, or a new one of that size."""
        before = self._used[-1].salt if self._used else 0
        segment = Segment(number, self._file_of(size), self._salt(), before, size)
        self._write_header(segment)
        if self._used:
            self._write(b"")
        if segment.name in self._free:
            self._free.remove(segment.name)
        self._used.append(segment)
        self._place = BEGIN
        self._end = position(number, BEGIN)

    def _file_of(self, size: int) -> str:
        while size == self._segment_bytes and self._free:
            if self._disk.has(self._free[0]):
                return self._free[0]
            self._names.discard(self._free.pop(0))  # somebody deleted it
        name = self._new_name()
        self._create(name, size)
        self._names.add(name)
        if size == self._segment_bytes:
            self._free.append(name)
        return name

    def _write_header(self, segment: Segment) -> None:
        header = encode_header(segment)
        try:
            for place in HEADER_PLACES:
                self._disk.write(segment.name, place, header)
        except OSError as error:
            raise self._cause(error) from error

    def _create(self, name: str, size: int) -> None:
        try:
            self._disk.create(name, size)
        except OSError as error:
            raise self._cause(error) from error

    def _cause(self, error: OSError) -> OSError | JournalFull:
        """Why a segment was not begun. Raises JournalGone where its folder is not there."""
        self._disk.check()
        return refusal(error)

    def _new_name(self) -> str:
        return next(name for name in map(str, count(1)) if name not in self._names)

    def _write(self, body: bytes, names: Sequence[str] = ()) -> None:
        segment, place = self._used[-1], self._place
        data = frames.encode(body, salt=segment.salt, place=place, synced=self._synced)
        try:
            self._disk.write(segment.name, place, data)
        except OSError as error:  # file systems that copy on write need room for it
            raise refusal(error) from error
        self._place = place + len(data)
        if names:
            self._blobs.written(names)
        self._end += len(data)  # one value: `sync` reads it beside


def _nothing() -> None:
    pass
