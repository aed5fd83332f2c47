"""One statement for many rows: each one gives the interpreter up, and must win it back."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

Rows = list[tuple[Any, ...]]
ROWS_AT_ONCE = 256  # a power of two: by these the rest is divided, so that few statements are made


def many_at_once(
    db: sqlite3.Connection, head: str, rows: Sequence[tuple[Any, ...]], tail: str = ""
) -> Rows:
    """Execute a statement that takes many rows; returns what it finds. Raises sqlite3.Error."""
    found: Rows = []
    at, size = 0, ROWS_AT_ONCE
    while at < len(rows):
        while at + size > len(rows):
            size //= 2
        flat = tuple(chain.from_iterable(rows[at : at + size]))
        found += db.execute(_many(head, tail, len(rows[at]), size), flat)
        at += size
    return found


@cache
def _many(head: str, tail: str, columns: int, rows: int) -> str:
    """A statement that takes many rows at once."""
    one = "(" + ",".join("?" * columns) + ")"
    return head + ",".join([one] * rows) + tail
