"""Reads the bodies of a log when a process starts, and checks whether the log is damaged."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from fractal_rm.adapters.log.blobs import Blobs
from fractal_rm.adapters.log.disk import Disk
from fractal_rm.adapters.log.segments import (
    PlacedBody,
    Segment,
    damaged,
    file_has_mark,
    follows,
    frames_from,
    position,
    start_place,
    was_synced_beyond,
    with_synced_flags,
)


class LogReader:
    """Reads a log from the position ``since`` on.

    After `read`, the attributes describe the end of the log. ``segments`` are the segments that
    were read. ``unconfirmed`` are segments after the end of the log, which remain after a power
    loss. The end of the log is given as the position ``end``, and as ``place`` in the last segment.
    """

    def __init__(self, disk: Disk, blobs: Blobs, segments: list[Segment], since: int) -> None:
        self.segments: list[Segment] = []
        self.unconfirmed = segments
        self.place = 0
        self.end = since
        self._since = since
        self._disk = disk
        self._blobs = blobs
        self._lost_blob = ""  # if the frame at `place` is invalid because of a lost blob: why

    def read(self, synced_until: int) -> Iterator[PlacedBody]:
        """Yield the bodies. ``synced_until``: see `Log.open`. Raises JournalDamaged, OSError."""
        while self.unconfirmed:
            segment = self.unconfirmed.pop(0)
            self.segments.append(segment)
            has_next = yield from self._read(segment, synced_until)
            self.end = position(segment.number, self.place)
            if not has_next or not self.unconfirmed or not follows(self.unconfirmed[0], segment):
                self._check_torn_end()
                self._check_last_segment(has_next)
                break

    def _read(self, segment: Segment, synced_until: int) -> Generator[PlacedBody, None, bool]:
        """Yield the bodies of a segment. Returns whether a next segment was begun."""
        self.place, self._lost_blob = start_place(segment, self._since), ""
        segment_frames = frames_from(self._disk, segment, self._since)
        for frame, end, is_synced in with_synced_flags(segment_frames, segment.number):
            if not frame.body:
                return True
            if end > synced_until and (
                message := self._blobs.find_lost_blob(frame.body, is_synced=is_synced)
            ):
                self._lost_blob = f": {message}"
                return False
            self.place = frame.end
            yield PlacedBody(frame.body, end)
        return False

    def _check_torn_end(self) -> None:
        """Raise JournalDamaged if the bytes after the end had been synced."""
        last = self.segments[-1]
        if was_synced_beyond(self._disk, (last, *self.unconfirmed), self.place):
            raise damaged(self._disk, f"{last} {self._fault()}")

    def _check_last_segment(self, has_next: bool) -> None:
        """Raise JournalDamaged if the last segment has a mark: its next segment was lost."""
        last = self.segments[-1]
        if file_has_mark(self._disk, last):
            fault = "had a next segment, which is missing" if has_next else self._fault()
            raise damaged(self._disk, f"{last} {fault}")

    def _fault(self) -> str:
        return f"is not valid at byte {self.place}{self._lost_blob}"
