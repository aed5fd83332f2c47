"""One filter, prepared for one journal: reads windows of numbers that match it."""

# ruff: noqa: S608 - statements are built from constants of this package only
from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

from fractal_rm.adapters.sqlite.errors import is_locked
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.row_sums import checksum_matches
from fractal_rm.adapters.sqlite.format.run_row import RunRow
from fractal_rm.adapters.sqlite.read.conditions import (
    Conditions,
    conditions_of,
    is_about_trouble,
    matches,
)
from fractal_rm.adapters.sqlite.read.connection import JournalConnection
from fractal_rm.adapters.sqlite.read.handled_runs import HandledRuns
from fractal_rm.adapters.sqlite.read.ranges import Range, Wanted, number_ranges
from fractal_rm.adapters.sqlite.read.salvage import Salvage
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.engine.ports import RunSummary

_LAST_NO = "SELECT coalesce(max(no), 0) FROM main.runs"
_RANGE = "no BETWEEN ? AND ?"
_CHILDREN = f"{statements.ALL_RUNS} WHERE parent = ? ORDER BY no LIMIT ?"
_BY_IDS = f"{statements.ALL_RUNS} WHERE id IN (SELECT value FROM json_each(?))"
MAX_CHILDREN = 10_000
_HANDLED_IN_RANGE = f"no IN (SELECT no FROM temp.handled_runs WHERE {_RANGE})"


class Match(NamedTuple):
    """A run that was found. ``no`` is its number; None: it is only in the log."""

    no: int | None
    run: RunSummary


class JournalQuestion:
    """A filter in one journal. Use it within `JournalConnection.question`.

    ``last_no`` is the highest number in the history. ``new_ids`` are the runs that may match and
    that the history does not have, in order. ``by_index``: the conditions find rows without reading
    others.
    """

    def __init__(
        self, connection: JournalConnection, run_filter: RunFilter, handled: HandledRuns
    ) -> None:
        """Prepare the conditions. Raises sqlite3.Error."""
        self.connection = connection
        self._filter = run_filter
        self.is_damaged = False  # read by number only, and around the damage
        self._handled = handled
        self._conditions, self._range_text = self._prepare(connection, run_filter, handled)
        self.last_no = self._read_last_no()
        self._changed = dict[int, str]()  # the ids of changed runs, by number
        self._changed_matches = self._read_changed()
        self._changed_ids = set(self._changed.values())
        self.new_ids = connection.recent.new_ids(run_filter)

    @property
    def by_index(self) -> bool:
        """Whether the conditions find rows without reading the rows between them."""
        by_other = bool(self._conditions.index) or self._range_text != _RANGE
        return by_other and not self.is_damaged

    def ranges(self, low: int, high: int, *, oldest_first: bool) -> Iterator[Range]:
        """Yield the ranges of numbers that may have matches. Raises sqlite3.Error."""
        wanted, lists = self._filter, self.connection.has_lists
        if self.is_damaged:
            yield low, high
            return
        by_trouble = self._conditions.index == "runs_by_fault"
        names_kinds = wanted.flow is not None or wanted.states is not None or wanted.dead_letters
        yield from number_ranges(
            self.connection.db,
            Wanted(
                wanted,
                by_kind=bool(names_kinds) and not by_trouble,
                by_time=lists and (wanted.since_ms is not None or wanted.until_ms is not None),
                also=list(self._changed_matches),
            ),
            low, high, oldest_first=oldest_first,
        )  # fmt: skip

    def read(
        self, first: int, last: int, limit: int, *, oldest_first: bool
    ) -> tuple[list[Match], int]:
        """Read the next matches from a range of numbers, in order.

        Returns about ``limit`` of them, and the number up to which (included) the range was read.
        Damage is added to the damage of the connection. Raises sqlite3.Error if the file is locked.
        """
        reached = last if oldest_first else first
        rows: list[RunRow] = []
        # Rows that changed in the log are left out below.
        allowed = limit + len(self._changed)
        if not self.is_damaged:
            try:
                rows = self._rows(first, last, allowed, oldest_first)
            except (sqlite3.DatabaseError, OverflowError) as error:
                if is_locked(error):
                    raise
                self.is_damaged = True
        if self.is_damaged:
            rows = self._rows_around_damage(first, last)
        elif len(rows) == allowed:
            reached = rows[-1].no
        found = [Match(row.no, run) for row, run in self._summaries(rows)]
        low, high = (first, reached) if oldest_first else (reached, last)
        found += (Match(no, run) for no, run in self._changed_matches.items() if low <= no <= high)
        found.sort(key=lambda match: match.no or 0, reverse=not oldest_first)
        return found, reached

    def count(self, first: int, last: int) -> int | None:
        """Count the matches in a range of numbers; None: the rows must be read for it."""
        conditions = self._conditions
        if self.is_damaged:
            return None
        statement = f"SELECT count(*) FROM {self._table} WHERE {self._range_text}{conditions.text}"
        db = self.connection.db
        (count,) = db.execute(statement, (first, last, *conditions.values)).fetchone()
        old = [no for no in self._changed if first <= no <= last]
        if old:
            (changed,) = db.execute(
                f"{statement} AND no IN (SELECT value FROM json_each(?))",
                (first, last, *conditions.values, json.dumps(old)),
            ).fetchone()
            count -= changed
        return int(count) + sum(first <= no <= last for no in self._changed_matches)

    def failures(self, first: int, last: int) -> list[tuple[int, int, int, int]] | None:
        """Count the matches in a range of numbers by their kind of failure.

        Returns for each kind its number, the number of runs, and the lowest and the highest number
        of a run; None: the rows must be read for it. Runs that changed in the log are left out.
        """
        conditions = self._conditions
        if self.is_damaged or conditions.index != "runs_by_fault":
            return None
        statement = (
            f"SELECT fault, count(*), min(no), max(no) FROM {self._table}"
            f" WHERE {self._range_text}{conditions.text} GROUP BY fault"
        )
        return self.connection.db.execute(statement, (first, last, *conditions.values)).fetchall()

    def run_at(self, no: int) -> RunSummary | None:
        """The run with a number; None: its row is missing or damaged."""
        row = self.connection.db.execute(f"{statements.ALL_RUNS} WHERE no = ?", (no,)).fetchone()
        if row is None or not checksum_matches(row):
            return None
        return self.connection.summary_of(RunRow._make(row))

    def children(self, run_id: str) -> list[RunSummary]:
        """The runs that RUN steps of a run started, in order. The filter must be `EVERY_RUN`."""
        rows = self.connection.db.execute(_CHILDREN, (run_id, MAX_CHILDREN)).fetchall()
        found = {run.id: run for _, run in self._valid(rows)}
        others = chain(self._changed_matches.values(), self.new(self.new_ids))
        found.update((run.id, run) for run in others if run.parent == run_id)
        return list(found.values())

    def with_ids(self, run_ids: set[str]) -> list[RunSummary]:
        """The runs with these ids. The filter must be `EVERY_RUN`."""
        rows = self.connection.db.execute(_BY_IDS, (json.dumps(sorted(run_ids)),)).fetchall()
        found = {run.id: run for _, run in self._valid(rows)}
        found.update((run.id, run) for run in self._changed_matches.values() if run.id in run_ids)
        return [*found.values(), *self.new([each for each in self.new_ids if each in run_ids])]

    def new(self, ids: Iterable[str]) -> list[RunSummary]:
        """Those of the runs that the history does not have which match, in the same order."""
        recent, db = self.connection.recent, self.connection.db
        summaries = (recent.summary(db, run_id) for run_id in ids)
        matching = (run for run in summaries if run is not None and matches(self._filter, run))
        return [run for _, run in self._select_handled((None, run) for run in matching)]

    def can_count_new(self) -> bool:
        """Whether all runs of ``new_ids`` match."""
        return self.connection.recent.can_count(self._filter)

    def _valid(self, rows: list[Any]) -> Iterator[tuple[RunRow, RunSummary]]:
        return self._summaries(list(map(RunRow._make, rows)))

    def changed_in(self, first: int, last: int) -> list[RunSummary]:
        """The matching runs with a number in this range that changed in the log."""
        return [run for no, run in self._changed_matches.items() if first <= no <= last]

    def time_at(self, no: int, *, oldest_first: bool) -> int | None:
        """The time of acceptance of the run at or beyond a number, on the side not searched."""
        side = "no >= ? ORDER BY no" if oldest_first else "no <= ? ORDER BY no DESC"
        statement = f"SELECT accepted_ms FROM runs WHERE {side} LIMIT 1"
        try:
            row = self.connection.db.execute(statement, (no,)).fetchone()
        except (sqlite3.DatabaseError, OverflowError):  # the search reports the damage
            return None
        return row[0] if row else None

    def _read_last_no(self) -> int:
        db = self.connection.db
        try:
            return int(db.execute(_LAST_NO).fetchone()[0])
        except sqlite3.DatabaseError as error:
            if is_locked(error):
                raise
            self.is_damaged = True
            return Salvage(db).last_no()

    @property
    def _table(self) -> str:
        if not self.connection.has_checksums:  # `runs` is a view
            return "runs"
        index = self._conditions.index
        return f"runs INDEXED BY {index}" if index else "runs NOT INDEXED"

    def _prepare(
        self, connection: JournalConnection, run_filter: RunFilter, handled: HandledRuns
    ) -> tuple[Conditions, str]:
        faults = None
        if connection.has_checksums and is_about_trouble(run_filter):
            faults = connection.faults.select(run_filter)
        condition, all_numbered = None, False
        if run_filter.handled is not None:
            condition, all_numbered = handled.condition(connection, run_filter.handled)
        conditions = conditions_of(run_filter, faults, condition)
        by_handled = bool(run_filter.handled) and all_numbered and not conditions.index
        return conditions, _HANDLED_IN_RANGE if by_handled else _RANGE

    def _rows(self, first: int, last: int, limit: int, oldest_first: bool) -> list[RunRow]:
        order = "" if oldest_first else " DESC"
        statement = (
            f"SELECT {statements.RUN_COLUMNS}, sum FROM {self._table}"
            f" WHERE {self._range_text}{self._conditions.text} ORDER BY no{order} LIMIT ?"
        )
        # Rows that changed in the log are left out below, so that the limit must not cover them.
        allowed = limit + len(self._changed)
        values = (first, last, *self._conditions.values, allowed)
        return list(map(RunRow._make, self.connection.db.execute(statement, values)))

    def _rows_around_damage(self, first: int, last: int) -> list[RunRow]:
        salvage = Salvage(self.connection.db)
        rows = list(salvage.rows_between(first, last))
        if salvage.unreadable or "an index" not in " ".join(self.connection.damage):
            self.connection.damage += salvage.problems
        return rows

    def _summaries(self, rows: list[RunRow]) -> Iterator[tuple[RunRow, RunSummary]]:
        """Yield the runs of rows, as far as they are valid and match all conditions."""
        found: list[tuple[Any, RunSummary]] = []
        for row in rows:
            if not checksum_matches(row):
                self.connection.damage.append(mismatch(row))
            elif row.id not in self._changed_ids:
                if self.is_damaged:
                    run = self.connection.summary_of(row)
                    if matches(self._filter, run):
                        found.append((row, run))
                else:
                    found.append((row, self.connection.summary_of(row)))
        return iter(self._select_handled(found) if self.is_damaged else found)

    def _read_changed(self) -> dict[int, RunSummary]:
        """Find what the history has in an earlier state. Return the matches by number."""
        recent, db, found = self.connection.recent, self.connection.db, dict[int, RunSummary]()
        ids, flow = recent.changed_ids(), self._filter.flow
        rows = db.execute(_BY_IDS, (json.dumps(list(ids)),)).fetchall() if ids else []
        for row in map(RunRow._make, rows):
            if flow in (None, row.flow) and recent.may_match(row.id, self._filter):
                run = recent.changed_summary(db, row)
                if run is None:
                    continue
                if matches(self._filter, run):
                    found[row.no] = run
            self._changed[row.no] = row.id
        return dict(self._select_handled(found.items()))

    def _select_handled(self, runs: Any) -> list[tuple[Any, RunSummary]]:
        """Keep the runs that match the condition ``handled``."""
        found, wanted = list(runs), self._filter.handled
        if wanted is None or not found:
            return found
        handled = self._handled.of([run.id for _, run in found])
        return [(key, run) for key, run in found if (run.id in handled) == wanted]


def mismatch(row: RunRow) -> str:
    """Return a sentence about a row that does not match its checksum."""
    run_id = row.id.encode("utf-8", "replace").decode() if isinstance(row.id, str) else "?"
    return f"the row of run {run_id} does not match its checksum"
