"""The table ``blocks``: the lowest and the highest time of acceptance in each block of runs.

Runs are numbered about in order of acceptance, but the clock may have been set, so their times may
jump. With this table, a range of times is found without searching an order in the times.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.bulk import execute_bulk
from fractal_rm.adapters.sqlite.format.row_sums import with_checksum
from fractal_rm.adapters.sqlite.format.spans import BLOCK_BITS

BegunRun = tuple[int, Any, int]  # number, flow, accepted_ms


def add_to_blocks(db: sqlite3.Connection, runs: Sequence[BegunRun]) -> None:
    """Add new runs, in order of their numbers, to the table. Raises sqlite3.Error."""
    head, tail = statements.UPSERT_BLOCKS
    execute_bulk(db, head, block_rows(runs), tail)


def block_rows(runs: Sequence[BegunRun]) -> list[tuple[Any, ...]]:
    """Return the rows of ``blocks`` for runs in order of their numbers."""
    rows: list[tuple[Any, ...]] = []
    at = 0
    while at < len(runs):
        first_no, *_ = runs[at]
        block = first_no >> BLOCK_BITS
        end = bisect_left(runs, (block + 1) << BLOCK_BITS, lo=at, key=itemgetter(0))
        times = [accepted_ms for _, _, accepted_ms in runs[at:end]]
        rows.append(with_checksum((block, min(times), max(times))))
        at = end
    return rows
