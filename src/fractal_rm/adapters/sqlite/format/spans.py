"""The table ``spans`` shows in which parts of the history there are ended runs of a flow and state.

Runs are numbered in order of acceptance. A block consists of 16,384 runs, and a zone consists of
256 runs of a block. If a block contains ended runs of a flow in a state, ``spans`` has a row for
this block, flow and state. Its ``zones`` has one bit for each zone of the block. The bit is set if
the zone contains such a run.

With ``spans``, runs of a rare flow or state are found without an index over all runs. Such an index
would make the history 18 to 76 % larger. A row of ``spans`` takes about 100 bytes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.bulk import execute_bulk
from fractal_rm.adapters.sqlite.format.row_sums import with_checksum

BLOCK_BITS = 14
ZONE_BITS = 8
_ZONES = 1 << (BLOCK_BITS - ZONE_BITS)  # zones in a block

# number, flow, state, accepted_ms, id, settled_ms
EndedRun = tuple[int, Any, str, int, str, int]
Kind = tuple[int, str, str]  # block, flow ('': none), state


class Columns(NamedTuple):
    """Ended runs of one kind: their numbers, times of acceptance, ids, and times of the end."""

    nos: Sequence[int]
    begun_ms: Sequence[int]
    ids: Sequence[str]
    ended_ms: Sequence[int]


def add_to_spans(db: sqlite3.Connection, groups: Mapping[Kind, Columns]) -> None:
    """Add ended runs to the table. Raises sqlite3.Error."""
    head, tail = statements.UPSERT_SPANS
    execute_bulk(db, head, span_rows(groups), tail)


def group_ended(runs: Iterable[EndedRun]) -> dict[Kind, Columns]:
    """Group ended runs by block, flow and state. Takes about 0.3 µs for each run."""
    runs_by_kind: dict[Kind, list[EndedRun]] = {}
    for run in runs:
        no, flow, state, _, _, _ = run
        kind = no >> BLOCK_BITS, flow or "", state
        runs_of_kind = runs_by_kind.get(kind)
        if runs_of_kind is None:
            runs_by_kind[kind] = [run]
        else:
            runs_of_kind.append(run)
    groups: dict[Kind, Columns] = {}
    for kind, runs_of_kind in runs_by_kind.items():
        nos, _, _, begun_ms, ids, ended_ms = zip(*runs_of_kind, strict=True)
        groups[kind] = Columns(nos, begun_ms, ids, ended_ms)
    return groups


def span_rows(groups: Mapping[Kind, Columns]) -> list[tuple[Any, ...]]:
    """Return the rows of ``spans`` for ended runs."""
    rows: list[tuple[Any, ...]] = []
    for kind, columns in sorted(groups.items()):
        times, ids = columns.begun_ms, columns.ids
        zones = 0
        for zone in {no >> ZONE_BITS for no in columns.nos}:
            zones |= 1 << (zone & (_ZONES - 1))
        bounds = min(times), max(times), min(ids), max(ids)
        rows.append(with_checksum((*kind, _signed(zones), *bounds)))
    return rows


def run_ranges(block: int, zones: int) -> Iterator[tuple[int, int]]:
    """Yield the first and last run number of each range of zones that are set, newest first."""
    start = block << BLOCK_BITS
    last_zone = None  # of the current range
    for zone in reversed(range(-1, _ZONES)):  # -1 ends a range that begins with zone 0
        is_set = zone >= 0 and zones >> zone & 1
        if is_set and last_zone is None:
            last_zone = zone
        elif not is_set and last_zone is not None:
            first = start + ((zone + 1) << ZONE_BITS)
            last = start + ((last_zone + 1) << ZONE_BITS) - 1
            yield first, last
            last_zone = None


def covers(zones: int, no: int) -> bool:
    """Return whether ``zones`` includes the zone of run number ``no``."""
    zone = no >> ZONE_BITS & (_ZONES - 1)
    return bool(zones >> zone & 1)


def _signed(zones: int) -> int:
    """Return the same 64 bits as a signed integer: SQLite stores signed integers only."""
    return zones - (1 << _ZONES) if zones >> (_ZONES - 1) else zones
