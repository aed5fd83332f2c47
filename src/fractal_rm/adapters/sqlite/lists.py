"""Lists of runs, the newest first, without an index for each thing that is asked.

Without a filter they follow the ids. With one, open runs come by their index, and ended ones by
`spans`: block after block, those with the newest ids first, until no block can have a newer one
than those that were found.

What cannot be read is left out and named: then runs are read by their numbers, around it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from heapq import nlargest
from typing import Any

import msgspec

from fractal_rm.adapters.sqlite import statements
from fractal_rm.adapters.sqlite.salvage import Salvage
from fractal_rm.adapters.sqlite.spans import ranges
from fractal_rm.adapters.sqlite.sums import holds

_ROW = statements.EVERY_RUN
Row = tuple[Any, ...]


class Wanted(msgspec.Struct, frozen=True):
    """What is asked for. ``before``: only ids before this one."""

    state: str | None
    flow: str | None
    before: str | None
    limit: int

    def where(self, *more: str) -> tuple[str, list[Any]]:
        """As a condition and its values. Where there is ``more``, that is what rows are found by.

        SQLite would follow the ids through the whole history to find few; `+id` has no index.
        """
        by_id = "+id < ?" if more else "id < ?"
        asked = {"state = ?": self.state, "flow = ?": self.flow, by_id: self.before}
        conditions = [*(text for text, value in asked.items() if value is not None), *more]
        values = [value for value in asked.values() if value is not None]
        return (" WHERE " + " AND ".join(conditions) if conditions else ""), values

    def fits(self, row: Row) -> bool:
        """Whether a row is asked for."""
        return (
            (self.state is None or row[3] == self.state)
            and (self.flow is None or row[2] == self.flow)
            and (self.before is None or row[1] < self.before)
        )


def newest(db: sqlite3.Connection, wanted: Wanted) -> tuple[list[Row], list[str]]:
    """Whole rows, the newest first, and what could not be read. Raises sqlite3.Error."""
    try:
        rows = _by_index(db, wanted)
    except (sqlite3.DatabaseError, OverflowError):
        return _around_damage(db, wanted)
    whole = [row for row in rows if holds(row)]
    broken = [_named(row) for row in rows if not holds(row)]
    return whole, broken


def one_by_id(db: sqlite3.Connection, run_id: str) -> Row | None:
    """The whole row of a run, also where the index of ids cannot be read. Raises sqlite3.Error."""
    try:
        found: Row | None = db.execute(f"{_ROW} WHERE id = ?", (run_id,)).fetchone()
    except sqlite3.DatabaseError:
        salvage = Salvage(db)
        found = next((row for row in salvage.rows_newest_first() if row[1] == run_id), None)
        if found is None and salvage.lost:
            raise
    return found


def _by_index(db: sqlite3.Connection, wanted: Wanted) -> list[Row]:
    if wanted.state is None and wanted.flow is None:
        where, values = wanted.where()
        statement = f"{_ROW}{where} ORDER BY id DESC LIMIT ?"
        return db.execute(statement, (*values, wanted.limit)).fetchall()
    where, values = wanted.where("settled_ms IS NULL")
    found = db.execute(
        f"{_ROW}{where} ORDER BY +id DESC LIMIT ?", (*values, wanted.limit)
    ).fetchall()
    for last_id, rows in _ended(db, wanted):
        if len(found) == wanted.limit and found[-1][1] > last_id:
            break
        found = nlargest(wanted.limit, {row[0]: row for row in (*found, *rows())}.values(),
                         key=lambda row: row[1])  # fmt: skip
    return found


def _ended(db: sqlite3.Connection, wanted: Wanted) -> Iterator[tuple[str, Any]]:
    """Blocks with the newest id that each may have, the newest first, and what reads its runs."""
    asked = {"state = ?": wanted.state, "flow = ?": wanted.flow, "first_id < ?": wanted.before}
    conditions = " AND ".join(text for text, value in asked.items() if value is not None)
    values = [value for value in asked.values() if value is not None]
    blocks: dict[int, tuple[str, int]] = {}
    for block, zones, last_id in db.execute(statements.SPANS_WHERE + conditions, values):
        known_id, known = blocks.get(block, ("", 0))
        blocks[block] = max(known_id, last_id), known | zones
    where, values = wanted.where("settled_ms IS NOT NULL", "no BETWEEN ? AND ?")
    for block, (last_id, zones) in sorted(blocks.items(), key=lambda item: item[1], reverse=True):

        def rows(block: int = block, zones: int = zones) -> Iterator[Row]:
            for stretch in ranges(block, zones):
                yield from db.execute(
                    f"{_ROW}{where} ORDER BY +id DESC LIMIT ?", (*values, *stretch, wanted.limit)
                )

        yield last_id, rows


def _around_damage(db: sqlite3.Connection, wanted: Wanted) -> tuple[list[Row], list[str]]:
    """The newest that can be read by their numbers; enough of them, and no more."""
    salvage = Salvage(db)
    found: list[Row] = []
    broken: list[str] = []
    for row in salvage.rows_newest_first(enough=lambda: len(found) >= wanted.limit):
        if not holds(row):
            broken.append(_named(row))
        elif wanted.fits(row):
            found.append(row)
    found.sort(key=lambda row: row[1], reverse=True)
    return found[: wanted.limit], [*broken, *salvage.unreadable]


def _named(row: Row) -> str:
    run_id = row[1].encode("utf-8", "replace").decode() if isinstance(row[1], str) else "?"
    return f"the row of run {run_id} does not match its checksum"
