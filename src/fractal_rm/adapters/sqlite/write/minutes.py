"""Count runs by minute and hour, for charts that read no rows of runs.

The counts of the last minute are kept in one row of the table ``meta``, which is written with every
batch anyway. When a later minute begins, its counts are added to the tables ``minutes`` and
``hours``. All of this is in the transaction that writes the runs, so no run is missed or counted
twice, even after a crash.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from operator import sub
from typing import Any, TypeVar

import msgspec

from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.bulk import execute_bulk
from fractal_rm.adapters.sqlite.format.row_sums import with_checksum
from fractal_rm.adapters.sqlite.format.spans import Columns, Kind
from fractal_rm.domain.state import State

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
MAX_ROW_BYTES = 2_000  # a longer row would need pages of its own: its counts go to the tables
ACCEPTED = State.ACCEPTED.text

Key = tuple[int, str, str]  # the beginning (milliseconds since 1970), flow ('': none), state


T = TypeVar("T")


class BegunRuns(msgspec.Struct, gc=False):
    """New runs, in order of their numbers, from ``first_no`` on: flows and times of acceptance."""

    first_no: int
    flows: list[str | None] = []
    times_ms: list[int] = []


class Tally(msgspec.Struct, array_like=True):
    """A number of runs, and their durations by power of two (see `engine.ports.Minute`)."""

    runs: int = 0
    durations: list[int] = []

    def add(self, other: Tally) -> None:
        """Add the counts of another tally."""
        self.runs += other.runs
        for bits, count in enumerate(other.durations):
            self.add_durations(bits, count)

    def add_durations(self, bits: int, count: int) -> None:
        """Add ``count`` runs whose durations have this number of bits."""
        self.durations += [0] * (bits + 1 - len(self.durations))
        self.durations[bits] += count


class LastMinute(msgspec.Struct):
    """The counts of the last minute, as they are stored in ``meta``: each with flow and state."""

    at_ms: int = 0
    tallies: list[tuple[str, str, Tally]] = []


class Minutes:
    """Call `write` in each transaction, and then `commit`, unless the transaction was undone."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """Read the counts of the last minute. Raises sqlite3.Error."""
        self._last = read_last_minute(db)
        self._next = self._last

    def write(
        self, db: sqlite3.Connection, begun: BegunRuns, ended: Mapping[Kind, Columns]
    ) -> None:
        """Write the counts of runs. Raises sqlite3.Error."""
        new = tallies_of(begun, ended)
        if not new:
            return
        newest_ms = max(at_ms for at_ms, _, _ in new)
        for flow, state, tally in self._last.tallies:
            own = new.setdefault((self._last.at_ms, flow, state), Tally())
            own.add(tally)
        of_newest = [(key[1], key[2], tally) for key, tally in new.items() if key[0] == newest_ms]
        last = LastMinute(newest_ms, of_newest)
        text = msgspec.json.encode(last)
        if len(text) > MAX_ROW_BYTES:
            last = LastMinute(newest_ms)
            text = msgspec.json.encode(last)
        else:
            new = {key: tally for key, tally in new.items() if key[0] != newest_ms}
        add_to_tables(db, new)
        db.execute(statements.SET_META, {"name": "minute", "value": text.decode()})
        self._next = last

    def commit(self) -> None:
        """Keep the counts of the last transaction."""
        self._last = self._next


def tallies_of(begun: BegunRuns, ended: Mapping[Kind, Columns]) -> dict[Key, Tally]:
    """Count runs by minute, flow and state.

    Most batches are within one minute. Then it takes about 0.2 µs for each run.
    """
    tallies: dict[Key, Tally] = {}
    for (flow, minute), count in _by_minute(begun.flows, begun.times_ms).items():
        tallies[minute * MINUTE_MS, flow or "", ACCEPTED] = Tally(count)
    for (_, flow, state), columns in ended.items():
        bits = list(map(int.bit_length, map(sub, columns.ended_ms, columns.begun_ms)))
        for (bit_count, minute), count in _by_minute(bits, columns.ended_ms).items():
            tally = tallies.setdefault((minute * MINUTE_MS, flow, state), Tally())
            tally.runs += count
            tally.add_durations(bit_count, count)
    return tallies


def _by_minute(values: Sequence[T], times_ms: Sequence[int]) -> dict[tuple[T, int], int]:
    """Count values by their minute."""
    if not times_ms:
        return {}
    first, last = min(times_ms) // MINUTE_MS, max(times_ms) // MINUTE_MS
    if first == last:
        return {(value, first): count for value, count in Counter(values).items()}
    return Counter(zip(values, [ms // MINUTE_MS for ms in times_ms], strict=True))


def add_to_tables(db: sqlite3.Connection, minutes: Mapping[Key, Tally]) -> None:
    """Add counts of minutes to the tables ``minutes`` and ``hours``. Raises sqlite3.Error."""
    hours: dict[Key, Tally] = {}
    for (at_ms, flow, state), tally in minutes.items():
        hours.setdefault((at_ms - at_ms % HOUR_MS, flow, state), Tally()).add(tally)
    _add(db, "minutes", minutes)
    _add(db, "hours", hours)


def read_last_minute(db: sqlite3.Connection) -> LastMinute:
    """Read the counts that are not in the tables yet. Raises sqlite3.Error."""
    row = db.execute(statements.READ_META, ("minute",)).fetchone()
    try:
        return msgspec.json.decode(row[0], type=LastMinute) if row else LastMinute()
    except (msgspec.MsgspecError, TypeError):  # damaged; the scrub reports it
        return LastMinute()


def _add(db: sqlite3.Connection, table: str, tallies: Mapping[Key, Tally]) -> None:
    rows: list[tuple[Any, ...]] = []
    select = statements.select_count(table)
    for key, new in sorted(tallies.items()):
        total = Tally(new.runs, list(new.durations))
        old = db.execute(select, key).fetchone()
        if old is not None:
            total.add(Tally(old[0], msgspec.json.decode(old[1])))
        rows.append(
            with_checksum((*key, total.runs, msgspec.json.encode(total.durations).decode()))
        )
    execute_bulk(db, f"INSERT OR REPLACE INTO {table} VALUES ", rows)  # noqa: S608 - a constant
