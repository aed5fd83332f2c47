"""Execute one statement for many rows.

Each statement releases the GIL and must acquire it again, so few statements are faster than many.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

Rows = list[tuple[Any, ...]]
# The largest number of rows of one statement. If fewer rows are left, they are split into powers of
# two, so that few different statements are needed.
ROWS_AT_ONCE = 256


def execute_bulk(
    db: sqlite3.Connection, head: str, rows: Sequence[tuple[Any, ...]], tail: str = ""
) -> Rows:
    """Execute the statement ``head (row), (row), … tail``. Returns all result rows.

    Raises sqlite3.Error.
    """
    result_rows: Rows = []
    at, size = 0, ROWS_AT_ONCE
    while at < len(rows):
        while at + size > len(rows):
            size //= 2
        flat = tuple(chain.from_iterable(rows[at : at + size]))
        result_rows += db.execute(_statement(head, tail, len(rows[at]), size), flat)
        at += size
    return result_rows


@cache
def _statement(head: str, tail: str, columns: int, rows: int) -> str:
    one = "(" + ",".join("?" * columns) + ")"
    return head + ",".join([one] * rows) + tail
