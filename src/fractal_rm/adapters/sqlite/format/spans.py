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
from collections.abc import Iterable, Iterator
from typing import Any

from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.bulk import execute_bulk
from fractal_rm.adapters.sqlite.format.row_sums import with_checksum

BLOCK_BITS = 14
ZONE_BITS = 8
_ZONES = 1 << (BLOCK_BITS - ZONE_BITS)  # zones in a block

# number, flow, state, accepted_ms, id, settled_ms
EndedRun = tuple[int, Any, str, int, str, int]


def add_to_spans(db: sqlite3.Connection, runs: Iterable[EndedRun]) -> None:
    """Add ended runs to the table. Raises sqlite3.Error."""
    head, tail = statements.UPSERT_SPANS
    execute_bulk(db, head, span_rows(runs), tail)


def span_rows(runs: Iterable[EndedRun]) -> list[tuple[Any, ...]]:
    """Return the rows of ``spans`` for ended runs. Takes about 0.5 µs for each run."""
    runs_by_key: dict[tuple[int, str, str], list[EndedRun]] = {}
    for run in runs:
        no, flow, state, _, _, _ = run
        key = no >> BLOCK_BITS, flow or "", state
        runs_of_key = runs_by_key.get(key)
        if runs_of_key is None:
            runs_by_key[key] = [run]
        else:
            runs_of_key.append(run)
    rows: list[tuple[Any, ...]] = []
    for key, runs_of_key in sorted(runs_by_key.items()):
        nos, _, _, times, ids, _ = zip(*runs_of_key, strict=True)
        zones = 0
        for zone in {no >> ZONE_BITS for no in nos}:
            zones |= 1 << (zone & (_ZONES - 1))
        bounds = min(times), max(times), min(ids), max(ids)
        rows.append(with_checksum((*key, _signed(zones), *bounds)))
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
