"""What a history has, for who checks or repairs the log that goes on from it."""

from __future__ import annotations

import sqlite3

from fractal_rm.adapters.log.rejoin import Before
from fractal_rm.adapters.sqlite import statements
from fractal_rm.adapters.sqlite.recover import run_from


def history_in(db: sqlite3.Connection, ended_until: int) -> Before:
    """It has what had ended before ``ended_until`` in the log; see `Before`."""
    rows = db.execute(statements.OPEN_RUNS).fetchall()

    def has_flow(version: str) -> bool:
        return db.execute(statements.FLOW_BODY, (version,)).fetchone() is not None

    ids = [row[1] for row in rows]
    return Before(ids, lambda run_id: run_from(db, run_id), has_flow, ended_until)
