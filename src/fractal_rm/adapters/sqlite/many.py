"""One statement for many rows: each one gives the interpreter up, and must win it back."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

Rows = list[tuple[Any, ...]]
ROWS_AT_ONCE = 64


def many_at_once(
    db: sqlite3.Connection, head: str, rows: Sequence[tuple[Any, ...]], tail: str = ""
) -> Rows:
    """Execute a statement that takes many rows; returns what it finds. Raises sqlite3.Error."""
    found: Rows = []
    for at in range(0, len(rows), ROWS_AT_ONCE):
        some = rows[at : at + ROWS_AT_ONCE]
        flat = tuple(chain.from_iterable(some))
        found += db.execute(_many(head, tail, len(some[0]), len(some)), flat)
    return found


@cache
def _many(head: str, tail: str, columns: int, rows: int) -> str:
    """A statement that takes many rows at once."""
    one = "(" + ",".join("?" * columns) + ")"
    return head + ",".join([one] * rows) + tail
