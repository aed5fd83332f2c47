"""Read the counts of runs by minute and by hour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import itemgetter

import msgspec

from fractal_rm.adapters.sqlite.read.conditions import as_stored
from fractal_rm.adapters.sqlite.read.connection import JournalConnection
from fractal_rm.adapters.sqlite.write.minutes import HOUR_MS, Key, Tally, read_last_minute
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import Minute

Row = tuple[int, str, str, int, list[int]]  # at_ms, flow ('': none), state, runs, durations
_STATES = {state.value: state for state in State}
_rows = msgspec.json.Decoder(list[Row]).decode


def read_minutes(
    connections: Sequence[JournalConnection],
    since_ms: int,
    until_ms: int,
    flow: str | None,
    *,
    hours: bool,
) -> list[Minute]:
    """Return the counts of all journals; see `engine.ports.History`. Raises sqlite3.Error."""
    asked = [connection for connection in connections if connection.has_lists]
    rows = [row for each in asked for row in _read(each, since_ms, until_ms, flow, hours)]
    if len({row[:3] for row in rows}) < len(rows):
        rows = _added(rows)
    rows.sort(key=itemgetter(0, 1, 2))
    return [
        Minute(at_ms, of_flow or None, _STATES[state], runs, durations)
        for at_ms, of_flow, state, runs, durations in rows
    ]


def _added(rows: list[Row]) -> list[Row]:
    """Add the counts of the same minute, flow and state, of several journals."""
    total: dict[Key, Tally] = {}
    for at_ms, flow, state, runs, durations in rows:
        total.setdefault((at_ms, flow, state), Tally()).add(Tally(runs, durations))
    return [(*key, tally.runs, tally.durations) for key, tally in total.items()]


def _read(
    connection: JournalConnection, since_ms: int, until_ms: int, flow: str | None, hours: bool
) -> Iterator[Row]:
    table, db = "hours" if hours else "minutes", connection.db
    of_flow = "" if flow is None else " AND flow = ?"
    values = (as_stored(since_ms), as_stored(until_ms), *([] if flow is None else [flow]))
    # One row of JSON is read faster than many rows.
    row = "json_array(at_ms, flow, state, runs, json(durations))"
    where = f"at_ms >= ? AND at_ms < ?{of_flow}"
    statement = f"SELECT json_group_array({row}) FROM {table} WHERE {where}"  # noqa: S608
    yield from _rows(db.execute(statement, values).fetchone()[0])
    last = read_last_minute(db)
    at_ms = last.at_ms - last.at_ms % HOUR_MS if hours else last.at_ms
    if since_ms <= at_ms < until_ms:
        for name, state, tally in last.tallies:
            if flow in (None, name):
                yield at_ms, name, state, tally.runs, tally.durations
