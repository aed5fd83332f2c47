"""What the history notes about itself, in its table ``meta``."""

from __future__ import annotations

import sqlite3

from fractal_rm.adapters.log.history import Projected
from fractal_rm.adapters.sqlite import statements


def projected(db: sqlite3.Connection) -> Projected | None:
    """How far it has the log; None: it does not say so. Raises sqlite3.Error."""
    notes = dict(db.execute(statements.PROJECTED).fetchall())
    everything, ended = notes.get("projected"), notes.get("ended_until")
    if not isinstance(everything, int) or not isinstance(ended, int):
        return None
    return Projected(everything, ended)
