"""Returns the content of a history that a check or a repair of the log needs."""

from __future__ import annotations

import sqlite3

from fractal_rm.adapters.log.rejoin import HistoryBefore
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.read.open_runs import load_run


def history_before_log(db: sqlite3.Connection, ended_until: int) -> HistoryBefore:
    """Return the open runs and flows of a history; see `HistoryBefore`.

    ``ended_until``: the history contains all runs that ended before this position of the log.
    """
    rows = db.execute(statements.OPEN_RUNS).fetchall()

    def has_flow(version: str) -> bool:
        return db.execute(statements.FLOW_BODY, (version,)).fetchone() is not None

    open_ids = [run_id for _, run_id, *_ in rows]
    return HistoryBefore(open_ids, lambda run_id: load_run(db, run_id), has_flow, ended_until)
