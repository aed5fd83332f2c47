"""Retention: what is old goes, a slice at a time, so that nobody waits for it.

Runs in trouble are kept longer, so that a busy day of successes does not push out what somebody has
to look at: they have an age and a share of the bytes of their own.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable

import msgspec

from fractal_rm.adapters.sqlite import statements
from fractal_rm.adapters.sqlite.rows import bytes_of

PURGE_EVERY_S = 10.0
SLICE_RUNS = 500


class Keep(msgspec.Struct, frozen=True):
    """How much history is kept. Runs in trouble stay for ``failed_s``, or ``age_s`` if longer.

    Where it is more than ``most_bytes`` in all, runs in trouble stay as long as they alone take at
    most ``failed_bytes``.
    """

    age_s: int
    most_bytes: int
    failed_s: int
    failed_bytes: int


Kept = Callable[[], Keep]


class Turns:
    """When a slice is dropped: every so often, and not while a node has just begun."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next_s: float | None = None

    def come(self, monotonic_s: float) -> bool:
        """Whether it is time."""
        next_s = self._next_s
        if next_s is None or monotonic_s >= next_s:
            self._next_s = monotonic_s + self._every_s
        return next_s is not None and monotonic_s >= next_s

    def again(self) -> None:
        """There is more to drop: go on with the next group."""
        self._next_s = float("-inf")


class Purge:
    """Goes through the runs from the oldest on, round after round.

    Their age is measured on the retention clock (`domain.steady`).

    Those that must stay (open ones above all, whatever their age) are passed over once a round.
    """

    def __init__(self, passed: int = 0) -> None:
        self._passed = passed
        self._dropped = False  # in this round
        self._spare_none = False

    @property
    def behind(self) -> int:
        """Where to go on where the slice that is next cannot be read."""
        return self._passed + SLICE_RUNS

    def drop_slice(
        self, db: sqlite3.Connection, retention_ms: int, keep: Keep
    ) -> tuple[bool, list[str]]:
        """Drop one slice of what is too old or too much.

        Returns whether the round goes on, and the blobs to be deleted when that is durable.
        """
        db.execute(statements.DROP_KEYS, (retention_ms, SLICE_RUNS))
        oldest_ms = retention_ms - keep.age_s * 1000
        oldest_failed_ms = retention_ms - max(keep.age_s, keep.failed_s) * 1000
        excess = _used_bytes(db) - keep.most_bytes
        too_much = excess > 0
        failed_too = too_much and (
            self._spare_none or _noted(db, "trouble_bytes") > keep.failed_bytes
        )
        rows = db.execute(statements.SLICE, (self._passed, SLICE_RUNS)).fetchall()
        drop, failed = list[int](), list[int]()
        sizes, freed = _blob_sizes(db, [row[0] for row in rows]) if too_much else {}, 0
        for no, _, ended_ms, in_trouble in rows:
            if ended_ms is None:
                continue
            much, oldest = (failed_too, oldest_failed_ms) if in_trouble else (too_much, oldest_ms)
            if (much and freed < excess) or ended_ms < oldest:
                drop.append(no)
                freed += sizes.get(no, 0)  # of rows that goes by whole slices
                failed += [no] if in_trouble else []
        names = _drop(db, drop, failed) if drop else []
        self._dropped = self._dropped or bool(drop)
        # Runs stand in the order of their acceptance: behind a young one all are young.
        came_ms = next((row[1] for row in reversed(rows) if row[1] is not None), 0)
        ends = len(rows) < SLICE_RUNS or not (too_much or came_ms < oldest_ms)
        if ends:
            self._end_round(db, too_much=too_much)
        else:
            self._passed = rows[-1][0]
        return not ends, names

    def _end_round(self, db: sqlite3.Connection, *, too_much: bool) -> None:
        """Where nothing was left to drop but what is spared, the next round spares nothing."""
        self._spare_none = too_much and not self._dropped
        self._passed, self._dropped = 0, False
        db.execute(statements.DROP_SPANS)


def _drop(db: sqlite3.Connection, drop: list[int], failed: list[int]) -> list[str]:
    """Returns the names of their blobs."""
    if failed:
        _count(db, "trouble_bytes", -bytes_of(db, failed))
    blobs = drop_blobs(db, drop)
    chosen = json.dumps(drop)
    db.execute(statements.DROP_PAGES, (chosen,))
    gone = db.execute(statements.DROP_RUNS, (chosen,)).rowcount
    db.execute(statements.STRIP_RUNS, (chosen,))
    _count(db, "dropped", gone)
    return blobs


def drop_blobs(db: sqlite3.Connection, numbers: list[int]) -> list[str]:
    """Forget the blobs of runs; returns the names of the files to be deleted. Raises sqlite3.Error.

    They are deleted when that is durable.
    """
    chosen = (json.dumps(numbers),)
    found = db.execute(statements.BLOBS_OF, chosen).fetchall()
    if found:
        db.execute(statements.DROP_BLOBS, chosen)
        _count(db, "blob_bytes", -sum(size for _, size in found))
    return [name for name, _ in found]


def _blob_sizes(db: sqlite3.Connection, numbers: list[int]) -> dict[int, int]:
    """What the blobs of runs take, of those that have any."""
    return dict(db.execute(statements.BLOB_SIZES, (json.dumps(numbers),)).fetchall())


def _count(db: sqlite3.Connection, name: str, more: int) -> None:
    db.execute(statements.COUNT, {"name": name, "more": more})


def _noted(db: sqlite3.Connection, name: str) -> int:
    value: int = db.execute(statements.READ_NOTE, (name,)).fetchone()[0]
    return value


def _used_bytes(db: sqlite3.Connection) -> int:
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size + _noted(db, "blob_bytes")
