"""Which runs began in a log that another process writes, as far as its history may not have them.

Each frame is read once, when somebody asks: what was written since is read on from there.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import msgspec

from fractal_rm.adapters.log import records
from fractal_rm.adapters.log.disk import FolderDisk
from fractal_rm.adapters.log.history import Asked
from fractal_rm.adapters.log.segments import (
    BEGIN,
    HEADER_BYTES,
    Segment,
    begin_of,
    encode_header,
    following,
    frames_in,
    look_through,
    number_of,
    position,
)
from fractal_rm.domain.journal_errors import JournalDamaged
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import Prior


class Tail:
    """The runs that began behind a position. Calls block for a read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._segment: Segment | None = None
        self._file = -1  # of the segment
        self._header = b""  # of the segment
        self._at = 0  # the position that is read next
        self._since = 0  # what began before it is in the history
        self._runs: dict[str, tuple[int, records.RunRecord]] = {}  # with the position behind each
        self._keys: dict[str, records.RunRecord] = {}

    def look(self, projected: int) -> None:
        """Read on; the history has all before ``projected``.

        Raises JournalDamaged and FileNotFoundError, also where a segment was used again meanwhile,
        as the history has what it held; JournalTooNew, OSError.
        """
        if projected != self._since:
            self._forget_before(projected)
        if self._at < projected or self._is_another():
            self._go_to(max(self._at, projected))
        while self._segment is not None or self._find_segment():
            if not self._read_on(self._segment):
                return
            self._go_to(position(number_of(self._at) + 1, BEGIN))

    def find(self, asked: Asked) -> Prior | None:
        """The run that began with this key or id. How it stands by now is not known in here."""
        key, run_id, digest, retention_ms = asked
        run = self._keys.get(key) if key is not None else None
        if run is not None and run.key_until_ms > retention_ms:
            return Prior(run.run_id, run.digest, State.ACCEPTED)
        return Prior(run_id, digest, State.ACCEPTED) if run_id in self._runs else None

    def close(self) -> None:
        """Let go of the file."""
        self._go_to(self._at)

    def _go_to(self, where: int) -> None:
        self._at, self._segment = where, None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _is_another(self) -> bool:
        """Whether the file is used again, or its segment, as it was empty, has another salt."""
        return self._segment is not None and self._header != os.pread(self._file, HEADER_BYTES, 0)

    def _find_segment(self) -> bool:
        if not self._folder.is_dir():
            return False
        disk = FolderDisk(self._folder)
        found = following(disk, look_through(disk), self._at)
        if not found:
            return False
        self._segment = found[0]
        self._file = os.open(self._folder / found[0].name, os.O_RDONLY | os.O_CLOEXEC)
        self._header = encode_header(found[0])
        self._at = position(found[0].number, begin_of(found[0], self._at))
        return True

    def _read_on(self, segment: Segment | None) -> bool:
        """Whether the segment has ended."""
        if segment is None:
            return False
        for frame in frames_in(partial(os.pread, self._file), segment, begin_of(segment, self._at)):
            if not frame.body:
                return True
            self._at = position(segment.number, frame.end)
            try:
                found = records.decode(frame.body)
            except (msgspec.MsgspecError, RecursionError) as error:
                raise JournalDamaged(f"of the log, a body cannot be read: {error}") from error
            for record in found:
                if isinstance(record, records.RunRecord):
                    self._runs[record.run_id] = self._at, record
                    if record.key is not None:
                        self._keys[record.key] = record
        return False

    def _forget_before(self, projected: int) -> None:
        self._since = projected
        self._runs = {run_id: known for run_id, known in self._runs.items() if known[0] > projected}
        runs = (run for _, run in self._runs.values())
        self._keys = {run.key: run for run in runs if run.key is not None}
