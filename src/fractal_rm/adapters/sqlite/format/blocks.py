"""The table ``blocks``: the lowest and the highest time of acceptance in each block of runs.

Runs are numbered about in order of acceptance, but the clock may have been set, so their times may
jump. With this table, a range of times is found without searching an order in the times.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.bulk import execute_bulk
from fractal_rm.adapters.sqlite.format.row_sums import with_checksum
from fractal_rm.adapters.sqlite.format.spans import BLOCK_BITS


def add_to_blocks(db: sqlite3.Connection, first_no: int, begun_ms: Sequence[int]) -> None:
    """Add new runs, which have consecutive numbers from ``first_no`` on. Raises sqlite3.Error."""
    head, tail = statements.UPSERT_BLOCKS
    execute_bulk(db, head, block_rows(first_no, begun_ms), tail)


def block_rows(first_no: int, begun_ms: Sequence[int]) -> list[tuple[Any, ...]]:
    """Return the rows of ``blocks`` for new runs."""
    rows: list[tuple[Any, ...]] = []
    at = 0
    while at < len(begun_ms):
        block = (first_no + at) >> BLOCK_BITS
        end = ((block + 1) << BLOCK_BITS) - first_no
        times = begun_ms[at:end]
        rows.append(with_checksum((block, min(times), max(times))))
        at = end
    return rows
