"""Which numbers of runs a search has to look at."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from fractal_rm.adapters.sqlite.format.spans import BLOCK_BITS, ZONE_BITS, run_ranges
from fractal_rm.adapters.sqlite.read.conditions import as_stored
from fractal_rm.domain.run_filter import RunFilter

BLOCKS_AT_ONCE = 16
_ALL_ZONES = (1 << (1 << (BLOCK_BITS - ZONE_BITS))) - 1
_BLOCK_RUNS = 1 << BLOCK_BITS

Range = tuple[int, int]  # the first and the last number


class Wanted(msgspec.Struct, frozen=True):
    """What limits the numbers. ``by_kind``: use the table ``spans`` (by flow and state).

    ``also`` are numbers that must not be left out: runs that have changed in the log.
    """

    run_filter: RunFilter
    by_kind: bool
    by_time: bool
    also: list[int]


def number_ranges(
    db: sqlite3.Connection, wanted: Wanted, low: int, high: int, *, oldest_first: bool
) -> Iterator[Range]:
    """Yield ranges of the numbers from ``low`` to ``high``, the newest (or the oldest) first.

    Reads the small tables as far as the caller goes on. Adjacent ranges are joined. An empty range
    (its last number is less than its first) is the end of a part without runs to look at. Raises
    sqlite3.Error.
    """
    ranges = _ranges(db, wanted, low, high, oldest_first)
    pending: Range | None = None
    for first, last in ranges:
        if first <= last:
            first, last = max(first, low), min(last, high)  # noqa: PLW2901
            if first > last:
                continue
        if pending is not None and oldest_first and pending[1] + 1 == first:
            pending = pending[0], last
        elif pending is not None and not oldest_first and last + 1 == pending[0]:
            pending = first, pending[1]
        else:
            if pending is not None:
                yield pending
            pending = first, last
    if pending is not None:
        yield pending


def _ranges(
    db: sqlite3.Connection, wanted: Wanted, low: int, high: int, oldest_first: bool
) -> Iterator[Range]:
    blocks = _blocks(db, wanted, low, high)
    if not oldest_first:
        blocks.reverse()
    if not wanted.by_kind:
        for block in blocks:
            yield block << BLOCK_BITS, ((block + 1) << BLOCK_BITS) - 1
        return
    size = 1
    at = 0
    while at < len(blocks):  # read few blocks first: the newest runs are asked for most
        some = blocks[at : at + size]
        zones = _zones(db, wanted, some)
        if not any(zones.values()):
            first, end = min(some) << BLOCK_BITS, (max(some) + 1) << BLOCK_BITS
            yield (end, end - 1) if oldest_first else (first, first - 1)
        for block in some:
            ranges = list(run_ranges(block, zones.get(block, 0)))
            yield from reversed(ranges) if oldest_first else ranges
        at += size
        size = min(2 * size, BLOCKS_AT_ONCE)


def _blocks(db: sqlite3.Connection, wanted: Wanted, low: int, high: int) -> list[int]:
    """Return the blocks to look at, in ascending order."""
    if low > high:
        return []
    first, last = low >> BLOCK_BITS, high >> BLOCK_BITS
    if not wanted.by_time:
        return list(range(first, last + 1))
    since_ms = wanted.run_filter.since_ms
    since_ms = as_stored(-(1 << 63) if since_ms is None else since_ms)
    until_ms = wanted.run_filter.until_ms
    until_ms = as_stored(1 << 63 if until_ms is None else until_ms)
    rows = db.execute(
        "SELECT block FROM blocks WHERE block BETWEEN ? AND ? AND last_ms >= ? AND first_ms < ?",
        (first, last, since_ms, until_ms),
    )
    found = {block for (block,) in rows}
    found.update(no >> BLOCK_BITS for no in wanted.also if low <= no <= high)
    return sorted(found)


def _zones(db: sqlite3.Connection, wanted: Wanted, blocks: list[int]) -> dict[int, int]:
    """Return for each block the zones that may have matching runs."""
    kinds, values = _kinds(wanted.run_filter)
    zones: dict[int, int] = {}
    ended = "SELECT block, zones FROM json_each(?) CROSS JOIN spans ON block = value"
    for block, bits in db.execute(f"{ended}{kinds}", (json.dumps(blocks), *values)):
        zones[block] = zones.get(block, 0) | (bits & _ALL_ZONES)
    still_open = "SELECT no FROM runs WHERE settled_ms IS NULL AND no BETWEEN ? AND ?"
    kinds, values = _kinds(wanted.run_filter, no_flow="flow IS NULL")
    bounds = min(blocks) << BLOCK_BITS, ((max(blocks) + 1) << BLOCK_BITS) - 1
    open_numbers = (no for (no,) in db.execute(f"{still_open}{kinds}", (*bounds, *values)))
    _add_numbers(zones, open_numbers)
    _add_numbers(zones, wanted.also)
    return zones


def _add_numbers(zones: dict[int, int], numbers: Iterable[int]) -> None:
    for no in numbers:
        zone = no >> ZONE_BITS & (_BLOCK_RUNS >> ZONE_BITS) - 1
        zones[no >> BLOCK_BITS] = zones.get(no >> BLOCK_BITS, 0) | 1 << zone


def _kinds(run_filter: RunFilter, no_flow: str = "flow = ''") -> tuple[str, list[Any]]:
    """Return the conditions on flow and state as SQL, with their values."""
    text, values = "", list[Any]()
    if run_filter.flow is not None:
        text, values = " AND flow = ?", [run_filter.flow]
    if run_filter.dead_letters:
        text += f" AND {no_flow}"
    if run_filter.states is not None:
        text += f" AND state IN ({', '.join('?' * len(run_filter.states))})"
        values += [state.value for state in run_filter.states]
    return text, values
