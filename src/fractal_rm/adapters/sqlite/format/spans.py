"""The table ``spans``: which blocks of runs contain ended runs of a flow in a state.

Runs are numbered in order of acceptance. A block is 16,384 runs, and a zone is 256 runs of a block.
A row of ``spans`` is for one block, flow and state; its ``zones`` has one bit for each zone, set if
the zone contains such a run.

With ``spans``, runs of a rare flow or state are found without an index. An index over all runs
would take 18 to 76 % more bytes; a row of this table takes about 100 bytes.
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
_ZONES = 1 << (BLOCK_BITS - ZONE_BITS)  # in a block

EndedRun = tuple[int, Any, str, int, str]  # number, flow, state, accepted_ms, id


def add_to_spans(db: sqlite3.Connection, ended: Iterable[EndedRun]) -> None:
    """Add ended runs to the table. Raises sqlite3.Error."""
    execute_bulk(db, statements.UPSERT_SPANS[0], spans_of(ended), statements.UPSERT_SPANS[1])


def spans_of(ended: Iterable[EndedRun]) -> list[tuple[Any, ...]]:
    """Return rows of ``spans`` for these runs. Takes about 0.5 µs for each run."""
    found: dict[tuple[int, str, str], list[EndedRun]] = {}
    for run in ended:
        key = run[0] >> BLOCK_BITS, run[1] or "", run[2]
        span = found.get(key)
        if span is None:
            found[key] = [run]
        else:
            span.append(run)
    rows: list[tuple[Any, ...]] = []
    for key, runs in sorted(found.items()):
        nos, _, _, times, ids = zip(*runs, strict=True)
        zones = 0
        for zone in {no >> ZONE_BITS for no in nos}:
            zones |= 1 << (zone & (_ZONES - 1))
        bounds = min(times), max(times), min(ids), max(ids)
        rows.append(with_checksum((*key, _signed(zones), *bounds)))
    return rows


def run_ranges(block: int, zones: int) -> Iterator[tuple[int, int]]:
    """Yield the first and last run number of each range of zones that are set, newest first."""
    last = None
    for zone in reversed(range(-1, _ZONES)):
        has_any = zone >= 0 and zones >> zone & 1
        if has_any and last is None:
            last = zone
        elif not has_any and last is not None:
            start = block << BLOCK_BITS
            yield start + (zone + 1 << ZONE_BITS), start + (last + 1 << ZONE_BITS) - 1
            last = None


def covers(zones: int, no: int) -> bool:
    """Return whether ``zones`` includes the zone of run number ``no``."""
    return bool(zones >> (no >> ZONE_BITS & (_ZONES - 1)) & 1)


def _signed(zones: int) -> int:
    """Return the same 64 bits as a signed integer: SQLite stores signed integers only."""
    return zones - (1 << _ZONES) if zones >> (_ZONES - 1) else zones
