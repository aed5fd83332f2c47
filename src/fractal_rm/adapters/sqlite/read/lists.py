"""Lists of runs, newest first, without an index for each filter.

Without a filter they follow the index of ids. With one, open runs are found by their index, and
ended runs by ``spans``: block after block, those with the newest ids first, until no block can
contain a newer run than those found.

Where SQLite cannot read, runs are read by their numbers around the damage, which is reported.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from heapq import nlargest
from typing import Any

import msgspec

from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.row_sums import sum_matches
from fractal_rm.adapters.sqlite.format.spans import run_ranges
from fractal_rm.adapters.sqlite.read.salvage import Salvage

_ROW = statements.EVERY_RUN
Row = tuple[Any, ...]


class RunFilter(msgspec.Struct, frozen=True):
    """Which runs to list. ``before``: only ids less than this one."""

    state: str | None
    flow: str | None
    before: str | None
    limit: int

    def where(self, *more: str) -> tuple[str, list[Any]]:
        """The condition and its values. If there are ``more`` conditions, these find the rows.

        Then it uses `+id`, for which SQLite does not use the index: following the ids would read
        the whole history to find few runs.
        """
        by_id = "+id < ?" if more else "id < ?"
        asked = {"state = ?": self.state, "flow = ?": self.flow, by_id: self.before}
        conditions = [*(text for text, value in asked.items() if value is not None), *more]
        values = [value for value in asked.values() if value is not None]
        return (" WHERE " + " AND ".join(conditions) if conditions else ""), values

    def matches(self, row: Row) -> bool:
        """Whether to list a row of ``runs``."""
        return (
            (self.state is None or row[3] == self.state)
            and (self.flow is None or row[2] == self.flow)
            and (self.before is None or row[1] < self.before)
        )


def newest_runs(db: sqlite3.Connection, wanted: RunFilter) -> tuple[list[Row], list[str]]:
    """Rows of ``runs``, newest first, and what could not be read. Raises sqlite3.Error."""
    try:
        rows = _by_index(db, wanted)
    except (sqlite3.DatabaseError, OverflowError):
        return _around_damage(db, wanted)
    valid = [row for row in rows if sum_matches(row)]
    damage = [_mismatch(row) for row in rows if not sum_matches(row)]
    return valid, damage


def one_run(db: sqlite3.Connection, run_id: str) -> Row | None:
    """The row of a run, even if the index of ids cannot be read. Raises sqlite3.Error."""
    try:
        found: Row | None = db.execute(f"{_ROW} WHERE id = ?", (run_id,)).fetchone()
    except sqlite3.DatabaseError:
        salvage = Salvage(db)
        found = next((row for row in salvage.rows_newest_first() if row[1] == run_id), None)
        if found is None and salvage.unreadable:
            raise
    return found


def _by_index(db: sqlite3.Connection, wanted: RunFilter) -> list[Row]:
    if wanted.state is None and wanted.flow is None:
        where, values = wanted.where()
        statement = f"{_ROW}{where} ORDER BY id DESC LIMIT ?"
        return db.execute(statement, (*values, wanted.limit)).fetchall()
    where, values = wanted.where("settled_ms IS NULL")
    found = db.execute(
        f"{_ROW}{where} ORDER BY +id DESC LIMIT ?", (*values, wanted.limit)
    ).fetchall()
    for last_id, rows in _blocks_of_ended(db, wanted):
        if len(found) == wanted.limit and found[-1][1] > last_id:
            break
        found = nlargest(wanted.limit, {row[0]: row for row in (*found, *rows())}.values(),
                         key=lambda row: row[1])  # fmt: skip
    return found


def _blocks_of_ended(db: sqlite3.Connection, wanted: RunFilter) -> Iterator[tuple[str, Any]]:
    """For each block: the newest id that it may contain, and a function that reads its runs.

    Blocks with the newest ids come first.
    """
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
            for numbers in run_ranges(block, zones):
                yield from db.execute(
                    f"{_ROW}{where} ORDER BY +id DESC LIMIT ?", (*values, *numbers, wanted.limit)
                )

        yield last_id, rows


def _around_damage(db: sqlite3.Connection, wanted: RunFilter) -> tuple[list[Row], list[str]]:
    """The newest runs that can be read by their numbers; stops as soon as there are enough."""
    salvage = Salvage(db)
    found: list[Row] = []
    damage: list[str] = []
    for row in salvage.rows_newest_first(enough=lambda: len(found) >= wanted.limit):
        if not sum_matches(row):
            damage.append(_mismatch(row))
        elif wanted.matches(row):
            found.append(row)
    found.sort(key=lambda row: row[1], reverse=True)
    return found[: wanted.limit], [*damage, *salvage.problems]


def _mismatch(row: Row) -> str:
    run_id = row[1].encode("utf-8", "replace").decode() if isinstance(row[1], str) else "?"
    return f"the row of run {run_id} does not match its checksum"
