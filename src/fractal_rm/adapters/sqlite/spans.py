"""Where the ended runs of a flow in a state are, so that a rare one is found without an index.

An index over all runs costs 18 to 76 % more bytes; this costs some 100 for every 16,384 runs of a
flow in a state. See `schema` for the table.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

from fractal_rm.adapters.sqlite import statements
from fractal_rm.adapters.sqlite.many import many_at_once
from fractal_rm.adapters.sqlite.sums import summed

BLOCK_BITS = 14
ZONE_BITS = 8
_ZONES = 1 << (BLOCK_BITS - ZONE_BITS)

Ended = tuple[int, Any, str, int, str]  # number, flow, state, acceptance, id


def widen(db: sqlite3.Connection, ended: Iterable[Ended]) -> None:
    """Take in runs that have ended. Raises sqlite3.Error."""
    many_at_once(db, statements.WIDEN_SPANS[0], spans_of(ended), statements.WIDEN_SPANS[1])


def spans_of(ended: Iterable[Ended]) -> list[tuple[Any, ...]]:
    """The rows that these runs alone would make. Some 0.5 µs a run."""
    found: dict[tuple[int, str, str], list[Ended]] = {}
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
        rows.append(summed((*key, _signed(zones), *bounds)))
    return rows


def ranges(block: int, zones: int) -> Iterator[tuple[int, int]]:
    """The numbers of runs in the zones of a block: first and last of each stretch, newest first."""
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
    """Whether a run is in a zone that has any."""
    return bool(zones >> (no >> ZONE_BITS & (_ZONES - 1)) & 1)


def _signed(zones: int) -> int:
    """64 bits as SQLite has them."""
    return zones - (1 << _ZONES) if zones >> (_ZONES - 1) else zones
