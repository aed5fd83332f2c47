"""Drop old runs at regular intervals."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from fractal_rm.adapters.log.blobs import BlobFiles
from fractal_rm.adapters.sqlite.errors import is_damage
from fractal_rm.adapters.sqlite.write.delete_blobs import delete_all
from fractal_rm.adapters.sqlite.write.file import HistoryFile
from fractal_rm.adapters.sqlite.write.limits import GetHistoryLimits
from fractal_rm.adapters.sqlite.write.purge import Purge

PURGE_EVERY_S = 10.0


class Retention:
    """Begins a round every ``every_s`` seconds. Each call drops one slice until the round ends."""

    def __init__(
        self, file: HistoryFile, blobs: BlobFiles, limits: GetHistoryLimits, *,
        monotonic_s: Callable[[], float], every_s: float,
    ) -> None:  # fmt: skip
        self._file = file
        self._blobs = blobs
        self._limits = limits
        self._monotonic_s = monotonic_s
        self._every_s = every_s
        self._next_s: float | None = None  # None: before the first call
        self._purge = Purge()

    def drop_if_due(self, retention_ms: int) -> None:
        """Drop one slice if it is due. The first call drops nothing, as a start has other work.

        Raises JournalBlocked, JournalLost.
        """
        if not self._is_due():
            return
        db = self._file.db
        try:
            db.execute("BEGIN IMMEDIATE")
            round_continues, blob_names = self._purge.drop_slice(db, retention_ms, self._limits())
            db.execute("COMMIT")
        except sqlite3.Error as error:
            self._purge = Purge(self._purge.end_of_slice) if is_damage(error) else Purge()
            raise self._file.failed_write_error(error) from error
        delete_all(self._blobs, blob_names)
        if round_continues:
            self._next_s = float("-inf")

    def _is_due(self) -> bool:
        now_s, next_s = self._monotonic_s(), self._next_s
        if next_s is None or now_s >= next_s:
            self._next_s = now_s + self._every_s
        return next_s is not None and now_s >= next_s
