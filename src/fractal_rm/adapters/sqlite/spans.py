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
    """The rows that these runs alone would make."""
    found: dict[tuple[int, str, str], list[Any]] = {}
    for no, flow, state, at_ms, run_id in ended:
        key = (no >> BLOCK_BITS, flow or "", state)
        span = found.get(key)
        if span is None:
            found[key] = [_bit(no), at_ms, at_ms, run_id, run_id]
            continue
        span[0] |= _bit(no)
        span[1], span[2] = min(span[1], at_ms), max(span[2], at_ms)
        span[3], span[4] = min(span[3], run_id), max(span[4], run_id)
    return [
        summed((*key, _signed(zones), *bounds)) for key, (zones, *bounds) in sorted(found.items())
    ]


def ranges(block: int, zones: int) -> Iterator[tuple[int, int]]:
    """The numbers of runs in the zones of a block, as first and last of each stretch; newest first.

    A zone is read alone even where the next has some, too: who looks for few need not read many.
    """
    for zone in reversed(range(_ZONES)):
        if zones >> zone & 1:
            first = (block << BLOCK_BITS) + (zone << ZONE_BITS)
            yield first, first + (1 << ZONE_BITS) - 1


def covers(zones: int, no: int) -> bool:
    """Whether a run is in a zone that has any."""
    return bool(zones & _bit(no))


def _bit(no: int) -> int:
    return 1 << (no >> ZONE_BITS & (_ZONES - 1))


def _signed(zones: int) -> int:
    """64 bits as SQLite has them."""
    return zones - (1 << _ZONES) if zones >> (_ZONES - 1) else zones
