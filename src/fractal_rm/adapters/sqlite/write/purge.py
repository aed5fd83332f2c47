"""Drop old runs from the history in small slices, so that other work does not wait for long.

Runs in trouble are kept longer, and have their own share of the size limit. Otherwise, many
successful runs would displace the failed runs that an operator must examine.
"""

from __future__ import annotations

import json
import sqlite3

from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.write.limits import HistoryLimits
from fractal_rm.adapters.sqlite.write.run_rows import bytes_of

SLICE_RUNS = 500
KEPT_MS = {"minutes": 2 * 86_400_000, "hours": 60 * 86_400_000}  # how long counts are kept


class Purge:
    """Examines runs in rounds, slice by slice, from the oldest run on.

    If the history is not too large, a round ends after the first slice whose last run is not too
    old.

    The age of a run is measured by the retention clock (`domain.steady`). Open runs are never
    dropped.
    """

    def __init__(self, last_no: int = 0) -> None:
        """Start after run number ``last_no``."""
        self._last_no = last_no
        self._dropped = False  # whether this round has dropped a run
        self._drop_all_failed = False

    @property
    def end_of_slice(self) -> int:
        """The run number after which to continue if the current slice cannot be read."""
        return self._last_no + SLICE_RUNS

    def drop_slice(
        self, db: sqlite3.Connection, retention_ms: int, limits: HistoryLimits
    ) -> tuple[bool, list[str]]:
        """Drop the runs of one slice that exceed the limits. Call this within a transaction.

        Returns whether the round continues, and the blobs to delete after the commit.
        """
        db.execute(statements.DROP_KEYS, (retention_ms, SLICE_RUNS))
        for table, kept_ms in KEPT_MS.items():
            db.execute(statements.drop_counts(table), (retention_ms - kept_ms, SLICE_RUNS))
        oldest_ms = retention_ms - limits.age_s * 1000
        oldest_failed_ms = retention_ms - max(limits.age_s, limits.failed_s) * 1000
        db.execute(statements.DROP_HANDLED, (min(oldest_ms, oldest_failed_ms), SLICE_RUNS))
        excess_bytes = _used_bytes(db) - limits.max_bytes
        too_large = excess_bytes > 0
        drop_failed = too_large and (
            self._drop_all_failed or _count_of(db, "trouble_bytes") > limits.failed_bytes
        )
        rows = db.execute(statements.RETENTION_SLICE, (self._last_no, SLICE_RUNS)).fetchall()
        to_drop, in_trouble_to_drop = list[int](), list[int]()
        blob_sizes = _blob_sizes(db, [no for no, *_ in rows]) if too_large else {}
        freed_bytes = 0  # only of blobs, as the size of the rows is known only after the deletion
        for no, _, ended_ms, in_trouble in rows:
            if ended_ms is None:
                continue
            if in_trouble:
                drop_for_size, oldest_kept_ms = drop_failed, oldest_failed_ms
            else:
                drop_for_size, oldest_kept_ms = too_large, oldest_ms
            if (drop_for_size and freed_bytes < excess_bytes) or ended_ms < oldest_kept_ms:
                to_drop.append(no)
                freed_bytes += blob_sizes.get(no, 0)
                if in_trouble:
                    in_trouble_to_drop.append(no)
        names = _drop(db, to_drop, in_trouble_to_drop) if to_drop else []
        self._dropped = self._dropped or bool(to_drop)
        # Runs are in order of acceptance: if a run is not too old, the later ones are not either.
        ended_runs_accepted_ms = [ms for _, ms, *_ in rows if ms is not None]
        last_accepted_ms = next(reversed(ended_runs_accepted_ms), 0)
        may_drop_more = too_large or last_accepted_ms < oldest_ms
        round_continues = len(rows) == SLICE_RUNS and may_drop_more
        if round_continues:
            self._last_no, *_ = rows[-1]
        else:
            self._end_round(db, too_large=too_large)
        return round_continues, names

    def _end_round(self, db: sqlite3.Connection, *, too_large: bool) -> None:
        """End a round.

        If the history is too large and the round dropped no run, the next round also drops runs in
        trouble.
        """
        self._drop_all_failed = too_large and not self._dropped
        self._last_no, self._dropped = 0, False
        db.execute(statements.DROP_SPANS)
        db.execute(statements.DROP_BLOCKS)


def _drop(db: sqlite3.Connection, numbers: list[int], in_trouble: list[int]) -> list[str]:
    """Drop runs. ``in_trouble`` are the runs in trouble among them. Returns the names of blobs."""
    if in_trouble:
        _add_to_count(db, "trouble_bytes", -bytes_of(db, in_trouble))
    blobs = drop_blob_rows(db, numbers)
    json_numbers = json.dumps(numbers)
    db.execute(statements.DROP_PAGES, (json_numbers,))
    dropped_count = db.execute(statements.DROP_RUNS, (json_numbers,)).rowcount
    db.execute(statements.SET_RUNS_WITHOUT_PAGES, (json_numbers,))
    _add_to_count(db, "dropped", dropped_count)
    return blobs


def drop_blob_rows(db: sqlite3.Connection, numbers: list[int]) -> list[str]:
    """Delete the rows of runs' blobs. Returns the names of the files to delete after the commit.

    Raises sqlite3.Error.
    """
    json_numbers = json.dumps(numbers)
    blobs = db.execute(statements.BLOBS_OF, (json_numbers,)).fetchall()
    if blobs:
        db.execute(statements.DROP_BLOBS, (json_numbers,))
        _add_to_count(db, "blob_bytes", -sum(size for _, size in blobs))
    return [name for name, _ in blobs]


def _blob_sizes(db: sqlite3.Connection, numbers: list[int]) -> dict[int, int]:
    """Return the size of each run's blobs, for runs that have blobs."""
    return dict(db.execute(statements.BLOB_SIZES, (json.dumps(numbers),)).fetchall())


def _add_to_count(db: sqlite3.Connection, name: str, amount: int) -> None:
    db.execute(statements.ADD_TO_META, {"name": name, "amount": amount})


def _count_of(db: sqlite3.Connection, name: str) -> int:
    value: int = db.execute(statements.READ_META, (name,)).fetchone()[0]
    return value


def _used_bytes(db: sqlite3.Connection) -> int:
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size + _count_of(db, "blob_bytes")
