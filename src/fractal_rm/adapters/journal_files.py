"""Makes a journal that is stored in files.

For a journal named ``up``, ``up.journal`` is the history, ``up.log`` is the folder of the log, and
``up.blobs`` is the folder of the large values of both.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from fractal_rm.adapters.clock import NodeClock
from fractal_rm.adapters.journal_size import JournalFileSizes
from fractal_rm.adapters.log.blob_folder import FolderBlobs, blob_folder
from fractal_rm.adapters.log.blobs import BlobFiles, Blobs
from fractal_rm.adapters.log.disk import Disk, FolderDisk, log_folder
from fractal_rm.adapters.log.journal import LogJournal
from fractal_rm.adapters.log.log import MAX_BYTES, SEGMENT_BYTES, Log
from fractal_rm.adapters.other_journals import FolderOfJournals
from fractal_rm.adapters.sqlite import HistoryStore
from fractal_rm.adapters.sqlite.write.limits import GetHistoryLimits
from fractal_rm.adapters.sqlite.write.retention import PURGE_EVERY_S
from fractal_rm.adapters.worker import Worker
from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import Counting


def open_journal(
    path: Path, *, limits: GetHistoryLimits, retention_ms: Callable[[], int],
    on_lost: Callable[[JournalError], None], synchronous: str = "FULL",
    purge_every_s: float = PURGE_EVERY_S, segment_bytes: int = SEGMENT_BYTES,
    max_bytes: int = MAX_BYTES,
    disk: Callable[[Path], Disk] = FolderDisk,
    blobs: Callable[[Path], BlobFiles] = FolderBlobs,
    not_adopted: Collection[str] = (), can_execute: Callable[[Run], bool] = lambda _: True,
    counting: Counting | None = None,
) -> LogJournal:  # fmt: skip
    """Make the journal of a process. `LogJournal.open` creates its files.

    ``limits`` returns the limits of the history. ``not_adopted`` are the names of journals that
    this process never adopts, as another process of the node uses them. ``can_execute`` tells
    whether this process can execute a run that another process accepted.
    """
    files = blobs(blob_folder(path))
    return LogJournal(
        Log(disk(log_folder(path)), Blobs(files), partial(secrets.randbits, 64),
            segment_bytes=segment_bytes, max_bytes=max_bytes),
        HistoryStore(
            path, limits, blobs=files, synchronous=synchronous, monotonic_s=NodeClock.monotonic_s,
            purge_every_s=purge_every_s,
        ),
        worker=Worker,
        retention_ms=retention_ms,
        on_lost=on_lost,
        counting=counting,
        measure=JournalFileSizes(path, NodeClock.monotonic_s),
        others=FolderOfJournals(
            path, not_adopted=not_adopted, can_execute=can_execute,
            synchronous=synchronous, blobs=files,
        ),
    )  # fmt: skip
