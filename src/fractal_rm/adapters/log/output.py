"""The output of the writer: the log, and the updates that the history still needs."""

from __future__ import annotations

from collections.abc import Callable

from fractal_rm.adapters.log.batch import EntryBatch, FactBatch, encoded
from fractal_rm.adapters.log.log import Log
from fractal_rm.adapters.log.recent_updates import RecentUpdates
from fractal_rm.adapters.log.run_updates import RunUpdates
from fractal_rm.domain.journal_errors import JournalBlocked


class Output:
    """Writes batches to the log, and then adds them to the recent updates.

    ``blocked``: why the log cannot be written now; None: it can be written. ``retention_ms`` reads
    the retention clock.
    """

    def __init__(self, log: Log, recent: RecentUpdates, retention_ms: Callable[[], int]) -> None:
        self.log = log
        self.recent = recent
        self.retention_ms = retention_ms
        self.blocked: JournalBlocked | None = None

    def write(self, batch: EntryBatch | FactBatch) -> None:
        """Write a batch, without a sync. Raises JournalBlocked if nothing was written."""
        self.log.put(*encoded(batch, self.log.new_blob_name))
        batch.add_to(self.recent.current)

    def write_moved_runs(self, body: bytes, updates: RunUpdates) -> None:
        """Write runs that began in another journal. Raises JournalBlocked if none was written."""
        self.log.put_with_existing_blobs(body)
        self.recent.current.add_new(updates)
