"""The log: a sequence of bodies. Each body is in a frame (`frames`), the frames are in segments.

A body is a list of records. Large values are in separate files (`blobs`), and the body refers to
them. The last frame of a full segment is empty: it shows that a next segment exists. Each process
begins a new segment, so bytes after the last frame of an earlier segment are never read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from fractal_rm.adapters.log import frames
from fractal_rm.adapters.log.blobs import Blobs
from fractal_rm.adapters.log.disk import Disk, refusal
from fractal_rm.adapters.log.log_reader import LogReader
from fractal_rm.adapters.log.records import blob_refs_of
from fractal_rm.adapters.log.segment_files import SegmentFiles
from fractal_rm.adapters.log.segments import (
    BEGIN,
    HEADER_BYTES,
    HEADER_PLACES,
    MARK_PLACE,
    PlacedBody,
    Segment,
    encode_header,
    encode_mark,
    position,
    read_headers,
    segment_number_at,
    segments_from,
)
from fractal_rm.adapters.log.threads import Worker
from fractal_rm.adapters.log.timed import Blob
from fractal_rm.domain.journal_errors import JournalFull

SEGMENT_BYTES = 4 * 1024 * 1024
MAX_BYTES = 64 * 1024 * 1024  # the total size of the segments that are not released


class Log:
    """A log that one process writes.

    Read it with `open`, then call `begin`. Then `put`, `sync` and `release` may be called.

    Call all methods on the event loop, except `sync`: a thread may call it at the same time as
    `put`. `sync` reads `_segments` and `_end`, and sets `_synced`, which only increases. ``salt``
    returns 64 random bits.
    """

    def __init__(
        self,
        disk: Disk,
        blobs: Blobs,
        salt: Callable[[], int],
        *,
        segment_bytes: int = SEGMENT_BYTES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.blobs = blobs
        self._disk = disk
        self._files = SegmentFiles(disk, segment_bytes)
        self._salt = salt
        self._max_bytes = max_bytes
        self._segments: list[Segment] = []  # in order of number; the last one is being written
        self._unconfirmed: list[Segment] = []  # segments after the end
        self._place = 0  # the place of the next frame in the last segment
        self._end = 0
        self._synced = 0
        self._notify_at = 0
        self._notify: Callable[[], None] = _do_nothing

    @property
    def end(self) -> int:
        """The position after the last body."""
        return self._end

    @property
    def synced(self) -> int:
        """The position up to which everything survives a power loss."""
        return self._synced

    def bytes_after(self, since: int) -> int:
        """About how many bytes the log has after a position: whole segments count in full."""
        first, last = segment_number_at(since), segment_number_at(self._end)
        whole = sum(each.size for each in self._segments if first <= each.number < last)
        place, place_since = self._end - position(last, 0), since - position(first, 0)
        return max(0, whole + place - place_since)

    # --- read -----------------------------------------------------------------------------------

    def open(self, since: int, synced_until: int = 0) -> Iterator[PlacedBody]:
        """Yield the bodies from a position on (0: all). Changes nothing; call `begin` afterwards.

        Everything up to ``synced_until`` was synced. Blobs of runs that ended before that position
        may already be deleted, so they are not verified.
        Raises JournalDamaged, JournalTooNew, OSError.
        """
        self._disk.make()
        files = read_headers(self._disk)
        reader = LogReader(self._disk, self.blobs, segments_from(self._disk, files, since), since)
        used = {segment.name for segment in reader.unconfirmed}
        sizes = files.others | {each.name: each.size for each in files.segments}
        free = {name: size for name, size in sizes.items() if name not in used}
        self._files.set_existing(used, free)
        self._synced = since
        yield from reader.read(synced_until)
        self._segments, self._unconfirmed = reader.segments, reader.unconfirmed
        self._place, self._end = reader.place, reader.end

    def begin(self) -> None:
        """Prepare to write after the last body that was read. Raises JournalFull, OSError."""
        for segment in self._unconfirmed:  # left by a power loss: its number will be used again
            for place in HEADER_PLACES:
                self._disk.write(segment.name, place, bytes(HEADER_BYTES))
            self._disk.sync(segment.name)
            self._files.release(segment)
        self._unconfirmed = []
        if self._segments and self._place == BEGIN:  # the last segment has no frame
            self._segments[-1] = msgspec.structs.replace(self._segments[-1], salt=self._salt())
            self._write_header(self._segments[-1])
        else:
            self._begin_segment(segment_number_at(self._end) + 1, self._files.segment_bytes)
        self.sync()

    # --- write ----------------------------------------------------------------------------------

    def new_blob_name(self) -> str:
        """A new name for a blob: 128 random bits."""
        return f"{self._salt():016x}{self._salt():016x}"

    def put(self, body: bytes, blobs: Sequence[Blob] = ()) -> None:
        """Write the blobs of a body, then the body, without a sync.

        If it raises JournalFull or an error of `Disk`, nothing was written.
        """
        if not blobs:
            self._put(body, ())
            return
        try:
            names = self.blobs.write(blobs)
        except OSError as error:
            raise refusal(error) from error
        try:
            self._put(body, names)
        except BaseException:
            self.blobs.delete(names)
            raise

    def put_with_existing_blobs(self, body: bytes) -> None:
        """Write a body whose blobs are already written. Raises the same errors as `put`."""
        self._put(body, [ref.name for ref in blob_refs_of(body) if ref.name is not None])

    def _put(self, body: bytes, names: Sequence[str]) -> None:
        if self._place + frames.OVERHEAD_BYTES + len(body) > self._segments[-1].size:
            size = max(self._files.segment_bytes, BEGIN + frames.OVERHEAD_BYTES + len(body))
            self._check_bound(size)
            self._begin_segment(self._segments[-1].number + 1, size)
        self._write(body, names)
        if self._end >= self._notify_at:
            self._notify()

    def notify_at(self, end: int, notify: Callable[[], None]) -> None:
        """Call ``notify`` after each `put` that reaches or passes the position ``end``."""
        self._notify_at, self._notify = end, notify

    def sync(self) -> None:
        """Wait until all bodies that were written before this call are durable."""
        since, end = self._synced, self._end
        self.blobs.sync()
        first, last = segment_number_at(since), segment_number_at(end)
        covered = [each for each in self._segments.copy() if first <= each.number <= last]
        for segment in covered:
            self._disk.sync(segment.name)
        for segment in covered[:-1]:  # the mark: from now on, a missing next segment is damage
            self._disk.write(segment.name, MARK_PLACE, encode_mark(segment))
            self._disk.sync(segment.name)
        self._synced = end

    def check(self) -> None:
        """Raise JournalMoved if an open file is no longer the file at its path."""
        self._disk.check()
        self.blobs.files.check()

    def close(self) -> None:
        """Close the files."""
        self._disk.close()
        self.blobs.files.close()

    # --- segments -------------------------------------------------------------------------------

    def release(self, until: int) -> None:
        """Free the segments before a position. Call it when the history has their content."""
        number = segment_number_at(until)
        for segment in [each for each in self._segments if each.number < number]:
            self._segments.remove(segment)
            self._files.release(segment)

    async def prepare(self, thread: Worker) -> None:
        """Create a free segment file if there is none. Raises JournalFull, OSError."""
        await self._files.prepare(thread)

    async def find_room(self, thread: Worker) -> None:
        """Raise JournalFull if there is no room for one more segment."""
        self._check_bound(self._files.segment_bytes)
        await self.prepare(thread)
        try:
            self._disk.keep_open(self._files.find(self._files.segment_bytes))
        except OSError as error:
            raise self._files.refusal_of(error) from error

    def _check_bound(self, size: int) -> None:
        unreleased = sum(segment.size for segment in self._segments)
        if unreleased + size > self._max_bytes:
            raise JournalFull(
                f"{unreleased} bytes of the log are not in the history yet; check whether the disk"
                " is full, or whether another program has locked the history"
            )

    def _begin_segment(self, number: int, size: int) -> None:
        """Continue in a free segment, or in a new one of this size."""
        previous_salt = self._segments[-1].salt if self._segments else 0
        segment = Segment(number, self._files.find(size), self._salt(), previous_salt, size)
        self._write_header(segment)
        if self._segments:
            self._write(b"")
        self._files.use(segment.name)
        self._segments.append(segment)
        self._place = BEGIN
        self._end = position(number, BEGIN)

    def _write_header(self, segment: Segment) -> None:
        header = encode_header(segment)
        try:
            for place in HEADER_PLACES:
                self._disk.write(segment.name, place, header)
        except OSError as error:
            raise self._files.refusal_of(error) from error

    def _write(self, body: bytes, names: Sequence[str] = ()) -> None:
        segment, place = self._segments[-1], self._place
        data = frames.encode(body, salt=segment.salt, place=place, synced=self._synced)
        try:
            self._disk.write(segment.name, place, data)
        except OSError as error:  # a copy-on-write file system needs free space for each write
            raise refusal(error) from error
        self._place = place + len(data)
        if names:
            self.blobs.note_written(names)
        self._end += len(data)  # one assignment, as `sync` may read `_end` at the same time


def _do_nothing() -> None:
    pass
