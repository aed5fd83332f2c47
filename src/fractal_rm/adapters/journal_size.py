"""Measures the files of a journal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from fractal_rm.adapters.log.blob_folder import blob_folder
from fractal_rm.adapters.log.disk import log_folder

MEASURE_EVERY_S = 30.0  # a folder may have thousands of blobs


class JournalFileSizes:
    """Calling it returns the bytes of all files of a journal: history, log and blobs.

    The result may be ``MEASURE_EVERY_S`` old. Files that cannot be read count as 0.
    """

    def __init__(self, journal: Path, monotonic_s: Callable[[], float]) -> None:
        self._journal = journal
        self._monotonic_s = monotonic_s
        self._measured: tuple[float, int] | None = None  # when, and the result

    def __call__(self) -> int:
        """Measure, or return the last result. Blocks."""
        now_s, last = self._monotonic_s(), self._measured
        if last is not None and now_s - last[0] < MEASURE_EVERY_S:
            return last[1]
        total_bytes = sum(self._sizes())
        self._measured = now_s, total_bytes
        return total_bytes

    def _sizes(self) -> Iterator[int]:
        history = self._journal.resolve()
        for path in (history, history.with_name(f"{history.name}-wal")):
            with suppress(OSError):
                yield path.stat().st_size
        for folder in (log_folder(self._journal), blob_folder(self._journal)):
            with suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    with suppress(OSError):  # deleted meanwhile
                        yield entry.stat(follow_symlinks=False).st_size
