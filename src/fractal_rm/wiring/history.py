"""The history of a process: one object, because it keeps its files open between questions."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from fractal_rm.adapters.sqlite import SqliteHistory


@cache
def history_of(state: Path) -> SqliteHistory:
    """The history in a state folder. Opens no file before the first question."""
    return SqliteHistory(state)
