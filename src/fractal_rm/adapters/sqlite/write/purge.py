"""Drop old runs from the history, one slice at a time, so that nothing waits for long.

Runs in trouble are kept longer and have a share of the bytes of their own, so that a busy day of
successes does not drop the failures that an operator must look at.
"""

from __future__ import annotations

import json
import sqlite3

from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.write.limits import HistoryLimits
from fractal_rm.adapters.sqlite.write.run_rows import bytes_of

SLICE_RUNS = 500


class Purge:
    """Reads all runs from the oldest on, round after round, slice by slice.

    Their age is measured on the retention clock (`domain.steady`). Open runs are never dropped.
    """

    def __init__(self, after: int = 0) -> None:
        """``after``: the run number after which the first slice begins."""
        self._after = after
        self._dropped = False  # in this round
        self._drop_all_failed = False

    @property
    def next_slice(self) -> int:
        """The run number to continue after if the current slice cannot be read."""
        return self._after + SLICE_RUNS

    def drop_slice(
        self, db: sqlite3.Connection, retention_ms: int, keep: HistoryLimits
    ) -> tuple[bool, list[str]]:
        """Drop what is too old or too much in one slice, within a transaction.

        Returns whether the round continues, and the blobs to delete after the commit.
        """
        db.execute(statements.DROP_KEYS, (retention_ms, SLICE_RUNS))
        oldest_ms = retention_ms - keep.age_s * 1000
        oldest_failed_ms = retention_ms - max(keep.age_s, keep.failed_s) * 1000
        excess = _used_bytes(db) - keep.most_bytes
        too_much = excess > 0
        failed_too = too_much and (
            self._drop_all_failed or _count_of(db, "trouble_bytes") > keep.failed_bytes
        )
        rows = db.execute(statements.SLICE, (self._after, SLICE_RUNS)).fetchall()
        drop, failed = list[int](), list[int]()
        sizes, freed = _blob_sizes(db, [row[0] for row in rows]) if too_much else {}, 0
        for no, _, ended_ms, in_trouble in rows:
            if ended_ms is None:
                continue
            much, oldest = (failed_too, oldest_failed_ms) if in_trouble else (too_much, oldest_ms)
            if (much and freed < excess) or ended_ms < oldest:
                drop.append(no)
                freed += sizes.get(no, 0)  # blobs only: the size of the rows is known afterwards
                failed += [no] if in_trouble else []
        names = _drop(db, drop, failed) if drop else []
        self._dropped = self._dropped or bool(drop)
        # Runs are in order of acceptance: after a young run all are young.
        accepted_ms = next((row[1] for row in reversed(rows) if row[1] is not None), 0)
        ends = len(rows) < SLICE_RUNS or not (too_much or accepted_ms < oldest_ms)
        if ends:
            self._end_round(db, too_much=too_much)
        else:
            self._after = rows[-1][0]
        return not ends, names

    def _end_round(self, db: sqlite3.Connection, *, too_much: bool) -> None:
        """If a round dropped nothing and it is still too much, the next one drops failures too."""
        self._drop_all_failed = too_much and not self._dropped
        self._after, self._dropped = 0, False
        db.execute(statements.DROP_SPANS)


def _drop(db: sqlite3.Connection, drop: list[int], failed: list[int]) -> list[str]:
    """Returns the names of their blobs."""
    if failed:
        _add_to_count(db, "trouble_bytes", -bytes_of(db, failed))
    blobs = drop_blob_rows(db, drop)
    chosen = json.dumps(drop)
    db.execute(statements.DROP_PAGES, (chosen,))
    dropped = db.execute(statements.DROP_RUNS, (chosen,)).rowcount
    db.execute(statements.STRIP_RUNS, (chosen,))
    _add_to_count(db, "dropped", dropped)
    return blobs


def drop_blob_rows(db: sqlite3.Connection, numbers: list[int]) -> list[str]:
    """Delete the rows of runs' blobs; returns the files to delete after the commit.

    Raises sqlite3.Error.
    """
    chosen = (json.dumps(numbers),)
    found = db.execute(statements.BLOBS_OF, chosen).fetchall()
    if found:
        db.execute(statements.DROP_BLOBS, chosen)
        _add_to_count(db, "blob_bytes", -sum(size for _, size in found))
    return [name for name, _ in found]


def _blob_sizes(db: sqlite3.Connection, numbers: list[int]) -> dict[int, int]:
    """The size of each run's blobs, of runs that have any."""
    return dict(db.execute(statements.BLOB_SIZES, (json.dumps(numbers),)).fetchall())


def _add_to_count(db: sqlite3.Connection, name: str, more: int) -> None:
    db.execute(statements.ADD_TO_META, {"name": name, "more": more})


def _count_of(db: sqlite3.Connection, name: str) -> int:
    value: int = db.execute(statements.READ_META, (name,)).fetchone()[0]
    return value


def _used_bytes(db: sqlite3.Connection) -> int:
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size + _count_of(db, "blob_bytes")
