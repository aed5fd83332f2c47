"""Journals for tests: on a disk that can be full, with small segments and a manual clock."""

from __future__ import annotations

import errno
from pathlib import Path

import msgspec

from fractal_rm.adapters.journal_files import open_journal
from fractal_rm.adapters.log import LogJournal
from fractal_rm.adapters.log.blob_folder import FolderBlobs
from fractal_rm.adapters.log.disk import FolderDisk
from fractal_rm.adapters.sqlite.write.limits import HistoryLimits
from fractal_rm.domain.facts import (
    Finished,
    Placed,
)
from fractal_rm.domain.journal_errors import (
    JournalError,
)
from fractal_rm.testing.journal import (
    begun,
    entry,
    write,
)

DAY_S, GIB = 86_400, 1 << 30


def raise_error(error: JournalError) -> None:
    raise AssertionError(error)


class ManualRetentionClock:
    """A retention clock that a test sets: it always shows the time ``ms``."""

    ms = 1_000

    def __call__(self) -> int:
        return self.ms


def sqlite_journal(
    folder: Path,
    name: str = "up",
    keep=(7 * DAY_S, GIB),
    on_lost=raise_error,
    disk=None,
    failed=None,
    blobs=None,
    retention_ms=None,
) -> LogJournal:
    """A journal with small segments. It purges its history after every batch.

    ``keep`` limits the history by age in seconds and by size in bytes. ``failed`` is such a limit
    for failed runs; by default it is ``keep``.
    """
    path = folder / f"{name}.journal"
    return open_journal(
        path, limits=lambda: HistoryLimits(*keep, *(failed or keep)), on_lost=on_lost,
        retention_ms=retention_ms or ManualRetentionClock(),
        purge_every_s=0, segment_bytes=64 * 1024, max_bytes=4 << 20, disk=disk or SmallDisk,
        blobs=blobs or SmallBlobs,
    )  # fmt: skip


class SmallDisk(FolderDisk):
    """A folder on a disk. The disk is full if ``SmallDisk.full`` is true."""

    full = False

    def create(self, name, size):
        if SmallDisk.full:
            raise OSError(errno.ENOSPC, "no room")
        super().create(name, size)


class SmallBlobs(FolderBlobs):
    """Blobs on a disk. The disk is full if ``SmallDisk.full`` is true."""

    def write(self, name, data):
        if SmallDisk.full:
            raise OSError(errno.ENOSPC, "no room")
        super().write(name, data)


async def write_open_runs(folder: Path, *, runs: int = 5) -> None:
    """Write a journal with the open runs run-0, run-1, etc. Their trigger ids are key-0, etc."""
    journal = sqlite_journal(folder)
    await journal.open()
    for n in range(runs):
        await journal.accept(entry(f"run-{n}", key=f"key-{n}"))
        run = begun(f"run-{n}")
        await write(journal, run, Placed(None, "placed by the balancer"))
        await write(journal, run, Finished(1, 200, 0.1, msgspec.Raw(b'"r"')))
    await journal.close(clean=True)


async def open_and_close(folder: Path):
    """Open and close the journal in a folder. Returns the result of `open`."""
    journal = sqlite_journal(folder)
    try:
        return await journal.open()
    finally:
        await journal.close(clean=True)


async def let_a_day_pass(journal: LogJournal, clock: ManualRetentionClock) -> None:
    """Set the clock to one day. Then accept two runs, so that the journal purges old runs."""
    await journal.update_history()
    clock.ms = DAY_S * 1_000
    for name in ("a day later", "just after"):
        await journal.accept(entry(name, at_ms=DAY_S * 1_000))
        await journal.update_history()
