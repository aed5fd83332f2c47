"""Retention: what is old goes, a slice at a time, so that nobody waits for it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable

from fractal_rm.adapters.sqlite import schema

PURGE_EVERY_S = 10.0
SLICE_RUNS = 500

Keep = Callable[[], tuple[int, int]]  # how much history is kept: seconds, bytes


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

    def __init__(self) -> None:
        self._passed = 0

    def drop_slice(
        self, db: sqlite3.Connection, retention_ms: int, history_s: int, history_bytes: int
    ) -> bool:
        """Drop one slice of what is too old or too much. Returns whether the round goes on."""
        db.execute(schema.DROP_KEYS, (retention_ms, SLICE_RUNS))
        oldest_ms = retention_ms - history_s * 1000
        too_much = _used_bytes(db) > history_bytes
        rows = db.execute(schema.SLICE, (self._passed, SLICE_RUNS)).fetchall()
        drop = [
            no
            for no, _, ended_ms in rows
            if ended_ms is not None and (too_much or ended_ms < oldest_ms)
        ]
        if drop:
            chosen = json.dumps(drop)
            for statement in (schema.DROP_PAGES, schema.DROP_RUNS, schema.STRIP_RUNS):
                db.execute(statement, (chosen,))
        # Runs stand in the order of their acceptance: behind a young one all are young.
        came_ms = next((came_ms for _, came_ms, _ in reversed(rows) if came_ms is not None), 0)
        ends = len(rows) < SLICE_RUNS or not (too_much or came_ms < oldest_ms)
        self._passed = 0 if ends else rows[-1][0]
        return not ends


def _used_bytes(db: sqlite3.Connection) -> int:
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size
