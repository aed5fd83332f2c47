"""Read the counts of runs by minute and by hour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from fractal_rm.adapters.sqlite.read.connection import JournalConnection
from fractal_rm.adapters.sqlite.write.minutes import HOUR_MS, Key, Tally, read_last_minute
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import Minute

_durations = msgspec.json.Decoder(list[int]).decode


def read_minutes(
    connections: Sequence[JournalConnection],
    since_ms: int,
    until_ms: int,
    flow: str | None,
    *,
    hours: bool,
) -> list[Minute]:
    """Return the counts of all journals; see `engine.ports.History`. Raises sqlite3.Error."""
    total: dict[Key, Tally] = {}
    for connection in connections:
        if not connection.has_lists:
            continue
        for (at_ms, of_flow, state), tally in _read(connection, since_ms, until_ms, flow, hours):
            if since_ms <= at_ms < until_ms and flow in (None, of_flow):
                total.setdefault((at_ms, of_flow, state), Tally()).add(tally)
    return [
        Minute(at_ms, of_flow or None, State(state), tally.runs, tally.durations)
        for (at_ms, of_flow, state), tally in sorted(total.items())
    ]


def _read(
    connection: JournalConnection, since_ms: int, until_ms: int, flow: str | None, hours: bool
) -> Iterator[tuple[Key, Tally]]:
    table, db = "hours" if hours else "minutes", connection.db
    of_flow = "" if flow is None else " AND flow = ?"
    values = (since_ms, until_ms, *([] if flow is None else [flow]))
    statement = f"SELECT at_ms, flow, state, runs, durations FROM {table}"  # noqa: S608
    for at_ms, name, state, runs, durations in db.execute(
        f"{statement} WHERE at_ms >= ? AND at_ms < ?{of_flow}", values
    ):
        yield (at_ms, name, state), Tally(runs, _durations(durations))
    last = read_last_minute(db)
    at_ms = last.at_ms - last.at_ms % HOUR_MS if hours else last.at_ms
    for name, state, tally in last.tallies:
        yield (at_ms, name, state), tally
