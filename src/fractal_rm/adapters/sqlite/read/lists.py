"""Lists of runs, newest first, without an index for each filter.

A list without a filter is read by the index of ids. For a list with a filter, open runs are found
by the index ``open_runs``, and ended runs by ``spans``: blocks with the newest ids are read first.
Reading stops when no other block can contain a run that is newer than those already found.

If SQLite reports damage, runs are read by their numbers instead. The damaged parts are skipped and
reported.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from heapq import nlargest
from typing import Any

import msgspec

from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.row_sums import checksum_matches
from fractal_rm.adapters.sqlite.format.run_row import RunRow
from fractal_rm.adapters.sqlite.format.spans import run_ranges
from fractal_rm.adapters.sqlite.read.salvage import Salvage

_ROW = statements.ALL_RUNS


class RunFilter(msgspec.Struct, frozen=True):
    """Which runs to list. ``before``: only runs whose id is less than this one."""

    state: str | None
    flow: str | None
    before: str | None
    limit: int

    def where(self, *conditions: str) -> tuple[str, list[Any]]:
        """Return a WHERE clause for the filter and the other conditions, and the filter's values.

        If there are other conditions, SQLite must find the rows by them. So the clause has `+id`,
        for which SQLite does not use the index of ids. With this index, SQLite would read the
        whole history to find few runs.
        """
        by_id = "+id < ?" if conditions else "id < ?"
        filters = {"state = ?": self.state, "flow = ?": self.flow, by_id: self.before}
        all_conditions = [text for text, value in filters.items() if value is not None]
        all_conditions += conditions
        values = [value for value in filters.values() if value is not None]
        clause = " WHERE " + " AND ".join(all_conditions) if all_conditions else ""
        return clause, values

    def matches(self, row: RunRow) -> bool:
        """Return whether the filter selects a row of ``runs``."""
        return (
            (self.state is None or row.state == self.state)
            and (self.flow is None or row.flow == self.flow)
            and (self.before is None or row.id < self.before)
        )


def newest_runs(db: sqlite3.Connection, run_filter: RunFilter) -> tuple[list[RunRow], list[str]]:
    """Return rows of ``runs``, newest first, and the damage found. Raises sqlite3.Error."""
    try:
        rows = _read_by_index(db, run_filter)
    except (sqlite3.DatabaseError, OverflowError):
        return _read_around_damage(db, run_filter)
    valid = [row for row in rows if checksum_matches(row)]
    damage = [_mismatch(row) for row in rows if not checksum_matches(row)]
    return valid, damage


def one_run(db: sqlite3.Connection, run_id: str) -> RunRow | None:
    """Return the row of a run, even if the index is damaged; None if there is no such run.

    Raises sqlite3.Error.
    """
    try:
        run = next(_rows(db, f"{_ROW} WHERE id = ?", (run_id,)), None)
    except sqlite3.DatabaseError:
        salvage = Salvage(db)
        run = next((row for row in salvage.rows_newest_first() if row.id == run_id), None)
        if run is None and salvage.unreadable:
            raise
    return run


def _read_by_index(db: sqlite3.Connection, run_filter: RunFilter) -> list[RunRow]:
    limit = run_filter.limit
    if run_filter.state is None and run_filter.flow is None:
        where, values = run_filter.where()
        statement = f"{_ROW}{where} ORDER BY id DESC LIMIT ?"
        return list(_rows(db, statement, (*values, limit)))
    where, values = run_filter.where("settled_ms IS NULL")
    runs = list(_rows(db, f"{_ROW}{where} ORDER BY +id DESC LIMIT ?", (*values, limit)))
    for newest_id, read_block in _blocks_of_ended(db, run_filter):
        if len(runs) == limit and runs[-1].id > newest_id:
            break
        by_number = {row.no: row for row in (*runs, *read_block())}
        runs = nlargest(limit, by_number.values(), key=lambda row: row.id)
    return runs


def _rows(db: sqlite3.Connection, statement: str, values: tuple[Any, ...]) -> Iterator[RunRow]:
    return map(RunRow._make, db.execute(statement, values))


def _blocks_of_ended(db: sqlite3.Connection, run_filter: RunFilter) -> Iterator[tuple[str, Any]]:
    """Yield for each block an upper bound of its ids, and a function that reads its runs.

    Blocks with the newest ids come first.
    """
    filters = {
        "state = ?": run_filter.state,
        "flow = ?": run_filter.flow,
        "first_id < ?": run_filter.before,
    }
    conditions = " AND ".join(text for text, value in filters.items() if value is not None)
    values = [value for value in filters.values() if value is not None]
    blocks: dict[int, tuple[str, int]] = {}
    for block, zones, last_id in db.execute(statements.SPANS_WHERE + conditions, values):
        newest_id, all_zones = blocks.get(block, ("", 0))
        blocks[block] = max(newest_id, last_id), all_zones | zones
    where, values = run_filter.where("settled_ms IS NOT NULL", "no BETWEEN ? AND ?")
    by_newest_id = [(newest_id, zones, block) for block, (newest_id, zones) in blocks.items()]
    for newest_id, zones, block in sorted(by_newest_id, reverse=True):

        def read_block(block: int = block, zones: int = zones) -> Iterator[RunRow]:
            for numbers in run_ranges(block, zones):
                yield from _rows(
                    db,
                    f"{_ROW}{where} ORDER BY +id DESC LIMIT ?",
                    (*values, *numbers, run_filter.limit),
                )

        yield newest_id, read_block


def _read_around_damage(
    db: sqlite3.Connection, run_filter: RunFilter
) -> tuple[list[RunRow], list[str]]:
    """Read runs by their numbers until ``limit`` runs match. Also returns the damage found."""
    salvage = Salvage(db)
    runs: list[RunRow] = []
    damage: list[str] = []
    for row in salvage.rows_newest_first(enough=lambda: len(runs) >= run_filter.limit):
        if not checksum_matches(row):
            damage.append(_mismatch(row))
        elif run_filter.matches(row):
            runs.append(row)
    runs.sort(key=lambda row: row.id, reverse=True)
    return runs[: run_filter.limit], [*damage, *salvage.problems]


def _mismatch(row: RunRow) -> str:
    run_id = row.id.encode("utf-8", "replace").decode() if isinstance(row.id, str) else "?"
    return f"the row of run {run_id} does not match its checksum"
