"""Reads the positions up to which the history contains the log, from the table ``meta``."""

from __future__ import annotations

import sqlite3

from fractal_rm.adapters.log.history import Projected
from fractal_rm.adapters.sqlite.format import statements


def read_projected(db: sqlite3.Connection) -> Projected | None:
    """Return the positions; None if `meta` lacks one of them. Raises sqlite3.Error."""
    values = dict(db.execute(statements.READ_PROJECTED).fetchall())
    all_runs, ended_runs = values.get("projected"), values.get("ended_until")
    if not isinstance(all_runs, int) or not isinstance(ended_runs, int):
        return None
    return Projected(all_runs, ended_runs)
