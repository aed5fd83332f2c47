"""The files that segments are stored in: finds free files, and creates new ones."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from itertools import count

from fractal_rm.adapters.log.disk import Disk, refusal
from fractal_rm.adapters.log.segments import Segment
from fractal_rm.adapters.log.threads import Worker
from fractal_rm.domain.journal_errors import JournalFull

MAX_FREE_FILES = 4


class SegmentFiles:
    """The files of a log, by name. Files of the size ``segment_bytes`` are reused."""

    def __init__(self, disk: Disk, segment_bytes: int) -> None:
        self.segment_bytes = segment_bytes
        self._disk = disk
        self._names: set[str] = set()  # the names of all files, also of one that is being created
        self._free: list[str] = []

    def set_existing(self, used: set[str], sizes: dict[str, int]) -> None:
        """Set the names of the used files, and the sizes of the free files by name."""
        self._names = used | sizes.keys()
        self._free = [name for name, size in sizes.items() if size == self.segment_bytes]

    def find(self, size: int) -> str:
        """The name of a free file of this size. Creates the file if there is none.

        Raises JournalFull, OSError.
        """
        while size == self.segment_bytes and self._free:
            if self._disk.has(self._free[0]):
                return self._free[0]
            self._names.discard(self._free.pop(0))  # the file was deleted
        name = self._new_name()
        try:
            self._disk.create(name, size)
        except OSError as error:
            raise self.refusal_of(error) from error
        self._names.add(name)
        if size == self.segment_bytes:
            self._free.append(name)
        return name

    def use(self, name: str) -> None:
        """Mark a file as used."""
        if name in self._free:
            self._free.remove(name)

    def release(self, segment: Segment) -> None:
        """Mark the file of a segment as free, or delete it if enough files are free."""
        if segment.size == self.segment_bytes and len(self._free) < MAX_FREE_FILES:
            self._free.append(segment.name)
            return
        with suppress(PermissionError):  # the file stays, and the next start reuses it
            self._disk.delete(segment.name)
            self._names.discard(segment.name)

    async def prepare(self, thread: Worker) -> None:
        """Create a free file if there is none. Uses a thread, as filling a file takes long.

        Raises JournalFull, OSError.
        """
        if self._free:
            return
        name = self._new_name()
        self._names.add(name)  # reserve the name while the file is created
        try:
            await thread.run(partial(self._disk.create, name, self.segment_bytes))
        except OSError as error:
            self._names.discard(name)
            raise self.refusal_of(error) from error
        self._free.append(name)

    def refusal_of(self, error: OSError) -> OSError | JournalFull:
        """The error to raise if creating a file failed with ``error``.

        Raises JournalMoved if the files were moved.
        """
        self._disk.check()
        return refusal(error)

    def _new_name(self) -> str:
        return next(name for name in map(str, count(1)) if name not in self._names)
