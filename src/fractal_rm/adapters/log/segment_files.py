"""The files for segments: which are free, and new ones."""

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
    """The files of a log, by name. Those of ``segment_bytes`` are kept for reuse.

    ``used`` are the names of files that are not free, ``sizes`` the sizes of the others.
    """

    def __init__(
        self, disk: Disk, segment_bytes: int, used: set[str], sizes: dict[str, int]
    ) -> None:
        self._disk = disk
        self._segment_bytes = segment_bytes
        self._names = used | sizes.keys()  # of all files, including one that is being made
        self._free = [name for name, size in sizes.items() if size == segment_bytes]

    def find(self, size: int) -> str:
        """A free file of this size, or a new one. Raises JournalFull, OSError."""
        while size == self._segment_bytes and self._free:
            if self._disk.has(self._free[0]):
                return self._free[0]
            self._names.discard(self._free.pop(0))  # it was deleted
        name = self._new_name()
        try:
            self._disk.create(name, size)
        except OSError as error:
            raise self.refusal_of(error) from error
        self._names.add(name)
        if size == self._segment_bytes:
            self._free.append(name)
        return name

    def use(self, name: str) -> None:
        """Take a file out of the free ones."""
        if name in self._free:
            self._free.remove(name)

    def release(self, segment: Segment) -> None:
        """Keep the file of a segment for reuse, or delete it if there are enough."""
        if segment.size == self._segment_bytes and len(self._free) < MAX_FREE_FILES:
            self._free.append(segment.name)
            return
        with suppress(PermissionError):  # the next start finds it free
            self._disk.delete(segment.name)
            self._names.discard(segment.name)

    async def prepare(self, thread: Worker) -> None:
        """Make a free file if there is none, on a thread, as filling it takes long.

        Raises JournalFull, OSError.
        """
        if self._free:
            return
        name = self._new_name()
        self._names.add(name)  # reserved while it is made
        try:
            await thread.run(partial(self._disk.create, name, self._segment_bytes))
        except OSError as error:
            self._names.discard(name)
            raise self.refusal_of(error) from error
        self._free.append(name)

    def refusal_of(self, error: OSError) -> OSError | JournalFull:
        """The error to raise if no segment was begun. Raises JournalGone if the folder is gone."""
        self._disk.check()
        return refusal(error)

    def _new_name(self) -> str:
        return next(name for name in map(str, count(1)) if name not in self._names)
