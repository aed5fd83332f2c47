"""Which runs operators have repeated or discarded, over all journals.

A run and the run that repeats it may be in different journals. So the journal of a run may not know
that it was handled.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from fractal_rm.adapters.sqlite.errors import is_locked
from fractal_rm.adapters.sqlite.read.connection import JournalConnection
from fractal_rm.engine.ports import Handled

MAX_NUMBERED = 20_000  # so many are looked up before a search; more are looked up for each run
_OF_RUNS = (
    "SELECT handled.run, by_run, at_ms, actor FROM json_each(?)"
    " CROSS JOIN handled ON handled.run = value"
)
_REPEATED_BY = (
    "SELECT by_run, handled.run FROM json_each(?) CROSS JOIN handled INDEXED BY handled_by_run"
    " ON by_run = value AND by_run != ''"
)
_REPLAYS = "SELECT by_run FROM handled WHERE run = ? AND by_run != ''"
_NUMBERED = "no IN (SELECT no FROM temp.handled_runs)"
_IN_TABLE = "EXISTS (SELECT 1 FROM handled WHERE handled.run = runs.id)"


class HandledRuns:
    """Reads the tables ``handled`` of several journals, and the ends of their logs."""

    def __init__(self, connections: Sequence[JournalConnection]) -> None:
        self._connections = connections

    def of(self, run_ids: Sequence[str]) -> dict[str, Handled]:
        """Return what was done last with each of some runs. Raises sqlite3.Error."""
        found: dict[str, Handled] = {}

        def add(run_id: str, handled: Handled) -> None:
            old = found.get(run_id)
            if old is None or handled.at_ms >= old.at_ms:
                found[run_id] = handled

        ids, json_ids = set(run_ids), json.dumps(list(run_ids))
        for connection in self._connections:
            for run_id, by_run, at_ms, actor in _select(connection, _OF_RUNS, json_ids):
                add(run_id, Handled(by_run or None, at_ms, actor))
            for run_id, handled in connection.recent.handled():
                if run_id in ids:
                    add(run_id, handled)
        return found

    def originals_of(self, run_ids: Sequence[str]) -> dict[str, str]:
        """Return by the id of a run the run that it repeats. Raises sqlite3.Error."""
        found: dict[str, str] = {}
        ids, json_ids = set(run_ids), json.dumps(list(run_ids))
        for connection in self._connections:
            found.update(_select(connection, _REPEATED_BY, json_ids))
            for original, handled in connection.recent.handled():
                if handled.by_run in ids:
                    found[handled.by_run] = original
        return found

    def replays_of(self, run_id: str) -> list[str]:
        """Return the ids of the runs that repeat a run, in order. Raises sqlite3.Error."""
        found: set[str] = set()
        for connection in self._connections:
            found.update(by_run for (by_run,) in _select(connection, _REPLAYS, run_id))
            recent = connection.recent.handled()
            found.update(each.by_run for of, each in recent if of == run_id and each.by_run)
        return sorted(found)

    def condition(self, connection: JournalConnection, handled: bool) -> tuple[str, bool]:
        """Return the condition that runs of a journal were handled, or were not, as SQL.

        Also returns whether the temporary table ``handled_runs`` has the numbers of all these runs.
        Raises sqlite3.Error.
        """
        own_count = _count(connection)
        all_numbered = own_count <= MAX_NUMBERED
        ids = [run_id for each in self._connections for run_id, _ in each.recent.handled()]
        for each in self._connections:
            if each is not connection or all_numbered:
                ids += (run_id for (run_id,) in _select(each, "SELECT run FROM handled"))
        db = connection.db
        db.execute("CREATE TEMP TABLE IF NOT EXISTS handled_runs (no INTEGER PRIMARY KEY)")
        db.execute("DELETE FROM temp.handled_runs")
        db.execute(
            "INSERT OR IGNORE INTO temp.handled_runs SELECT no FROM json_each(?)"
            " CROSS JOIN runs ON runs.id = value",
            (json.dumps(ids),),
        )
        text = _NUMBERED if all_numbered else f"({_NUMBERED} OR {_IN_TABLE})"
        return (text if handled else f"NOT {text}"), all_numbered


def _select(connection: JournalConnection, statement: str, *values: Any) -> list[Any]:
    """Return rows of ``handled``; damage is added to the damage of the connection."""
    if not connection.has_lists:
        return []
    try:
        return connection.db.execute(statement, values).fetchall()
    except sqlite3.DatabaseError as error:
        if is_locked(error):
            raise
        connection.damage.append(f"which runs were repeated or discarded cannot be read ({error})")
        return []


def _count(connection: JournalConnection) -> int:
    return len(_select(connection, "SELECT 1 FROM handled LIMIT ?", MAX_NUMBERED + 1))
