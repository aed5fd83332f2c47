"""Find runs by trigger id or run id."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from fractal_rm.adapters.log.history import KeyQuery
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.bulk import execute_bulk
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import ExistingRun


def find_runs(db: sqlite3.Connection, queries: Sequence[KeyQuery]) -> list[ExistingRun | None]:
    """Find a run for each query: by the trigger id if that is still valid, else by the run id.

    Uses one bulk statement for all trigger ids and one for all run ids. Raises sqlite3.Error.
    """
    keys = [(key,) for key, *_ in queries if key is not None]
    key_rows = execute_bulk(db, statements.FIND_KEYS, keys, ")")
    by_key = {
        key: (until_ms, ExistingRun(run_id, digest, State(state)))
        for key, until_ms, run_id, digest, state in key_rows
    }
    ids = [(run_id,) for _, run_id, *_ in queries if run_id]
    states = dict(execute_bulk(db, statements.FIND_RUNS, ids, ")"))
    runs: list[ExistingRun | None] = []
    for key, run_id, digest, retention_ms in queries:
        until_ms, existing = by_key.get(key or "", (0, None))
        if until_ms > retention_ms:
            runs.append(existing)
        elif run_id in states:
            runs.append(ExistingRun(run_id, digest, State(states[run_id])))
        else:
            runs.append(None)
    return runs
