"""Finds runs in the log of another process. The history of that process may not have them yet.

Each frame is read once: each call continues where the last call stopped.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import msgspec

from fractal_rm.adapters.log import records
from fractal_rm.adapters.log.disk import FolderDisk
from fractal_rm.adapters.log.history import KeyQuery
from fractal_rm.adapters.log.segments import (
    BEGIN,
    HEADER_BYTES,
    Segment,
    encode_header,
    frames_in,
    position,
    read_headers,
    segment_number_at,
    segments_from,
    start_place,
)
from fractal_rm.domain.journal_errors import JournalDamaged
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import ExistingRun


class Tail:
    """The runs that began in a log and are not in its history. The methods block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._segment: Segment | None = None
        self._file = -1  # the descriptor of the file of the segment
        self._header = b""  # the header of the segment
        self._at = 0  # the next position to read
        self._since = 0  # the history has all runs before this position
        # By run id: the position after the record, and the record.
        self._runs: dict[str, tuple[int, records.RunRecord]] = {}
        self._keys: dict[str, records.RunRecord] = {}

    def read_new(self, projected: int) -> None:
        """Read the frames that were written since the last call.

        The history has everything before the position ``projected``. Raises JournalDamaged or
        FileNotFoundError if the log is damaged, or if a segment was released meanwhile (the history
        then has the content of the segment). Raises JournalTooNew, OSError.
        """
        if projected != self._since:
            self._forget_before(projected)
        if self._at < projected or self._segment_was_replaced():
            self._go_to(max(self._at, projected))
        while self._segment is not None or self._find_segment():
            if not self._read_rest(self._segment):
                return
            self._go_to(position(segment_number_at(self._at) + 1, BEGIN))

    def find(self, query: KeyQuery) -> ExistingRun | None:
        """The run that began with this key or id. Its state is always returned as accepted."""
        key, run_id, digest, retention_ms = query
        run = self._keys.get(key) if key is not None else None
        if run is not None and run.key_until_ms > retention_ms:
            return ExistingRun(run.run_id, run.digest, State.ACCEPTED)
        return ExistingRun(run_id, digest, State.ACCEPTED) if run_id in self._runs else None

    def close(self) -> None:
        """Close the file."""
        self._go_to(self._at)

    def _go_to(self, at: int) -> None:
        self._at, self._segment = at, None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _segment_was_replaced(self) -> bool:
        """Whether the file has another segment now, or the same segment with a new salt."""
        return self._segment is not None and self._header != os.pread(self._file, HEADER_BYTES, 0)

    def _find_segment(self) -> bool:
        if not self.folder.is_dir():
            return False
        disk = FolderDisk(self.folder)
        segments = segments_from(disk, read_headers(disk), self._at)
        if not segments:
            return False
        self._segment = segments[0]
        self._file = os.open(self.folder / segments[0].name, os.O_RDONLY | os.O_CLOEXEC)
        self._header = encode_header(segments[0])
        self._at = position(segments[0].number, start_place(segments[0], self._at))
        return True

    def _read_rest(self, segment: Segment | None) -> bool:
        """Read the rest of a segment. Returns whether a next segment was begun."""
        if segment is None:
            return False
        for frame in frames_in(
            partial(os.pread, self._file), segment, start_place(segment, self._at)
        ):
            if not frame.body:
                return True
            self._at = position(segment.number, frame.end)
            try:
                decoded = records.decode(frame.body)
            except (msgspec.MsgspecError, RecursionError) as error:
                raise JournalDamaged(f"a frame of the log cannot be decoded: {error}") from error
            for record in decoded:
                if isinstance(record, records.RunRecord):
                    self._runs[record.run_id] = self._at, record
                    if record.key is not None:
                        self._keys[record.key] = record
        return False

    def _forget_before(self, projected: int) -> None:
        self._since = projected
        self._runs = {
            run_id: (end, run) for run_id, (end, run) in self._runs.items() if end > projected
        }
        runs = (run for _, run in self._runs.values())
        self._keys = {run.key: run for run in runs if run.key is not None}
