"""The position up to which a history contains its log, as stored in the table ``meta``."""

from __future__ import annotations

import sqlite3

from fractal_rm.adapters.log.history import Projected
from fractal_rm.adapters.sqlite.format import statements


def read_projected(db: sqlite3.Connection) -> Projected | None:
    """Both positions; None if one is missing. Raises sqlite3.Error."""
    notes = dict(db.execute(statements.PROJECTED).fetchall())
    everything, ended = notes.get("projected"), notes.get("ended_until")
    if not isinstance(everything, int) or not isinstance(ended, int):
        return None
    return Projected(everything, ended)
