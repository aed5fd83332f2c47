"""Copy the readable content of a damaged history into a new history.

Indexes, counts and the tables for lists are rebuilt. If the row of a run is lost, its id is read
from the index of ids.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

from fractal_rm.adapters.log.blobs import BlobFiles
from fractal_rm.adapters.log.history import Projected
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.bulk import execute_bulk
from fractal_rm.adapters.sqlite.format.row_sums import checksum_matches
from fractal_rm.adapters.sqlite.format.schema import CHECKSUMS_SINCE, HANDLED_SINCE, LOSSES
from fractal_rm.adapters.sqlite.read.salvage import Salvage
from fractal_rm.adapters.sqlite.repair.new_history import NewHistory
from fractal_rm.adapters.sqlite.repair.rebuild_run import RunRebuilder
from fractal_rm.domain.flow import version_of


class Rebuild:
    """Copies a history. ``lost`` are messages about what is lost.

    ``positions`` are the positions in the log; None if they are lost.
    """

    def __init__(
        self, old: sqlite3.Connection, old_format: int, new: NewHistory, blobs: BlobFiles
    ) -> None:
        self._old = old
        self._old_format = old_format
        self._new = new
        self._salvage = Salvage(old)
        self.lost: list[str] = []
        self.runs = RunRebuilder(self._salvage, new, blobs, self._add_lost)
        self.positions: Projected | None = Projected(all=0, ended=0)

    def copy(self) -> None:
        """Copy all tables. Raises sqlite3.Error only for errors of the new history."""
        self._copy_flows()
        self._copy_runs()
        self._new.db.execute(statements.DROP_FAULTS)
        self._copy_keys()
        self._copy_counts()
        self._write_meta()

    def _copy_flows(self) -> None:
        for version, body in self._rows("flow definitions", "SELECT version, body FROM flows"):
            if isinstance(body, bytes) and version_of(body) == version:
                self._new.db.execute(statements.INSERT_FLOW, (version, body))
            else:
                self._add_lost(f"the definition of flow version {version!r}")

    def _copy_runs(self) -> None:
        rows = {row.no: row for row in self._salvage.rows_oldest_first()}
        ids = self._ids()
        for no in sorted(rows.keys() | ids.keys()):
            self.runs.copy(no, rows.get(no), ids.get(no))
        for first, last in self._salvage.unreadable:
            missing = [no for no in range(first, last + 1) if no not in ids]
            if missing:
                self._add_lost(f"rows of runs no. {missing[0]} to {missing[-1]}, if there were any")

    def _ids(self) -> dict[int, str]:
        """Return the ids of runs by run number, as far as the index of ids can be read."""
        rows = self._rows("index of ids", "SELECT no, id FROM runs ORDER BY id", note=False)
        return dict(rows)

    def _copy_keys(self) -> None:
        with_sums = self._old_format >= CHECKSUMS_SINCE
        columns = "*" if with_sums else "*, row_sum(key, run, digest, until_ms)"
        run_numbers = {no for (no,) in self._new.db.execute("SELECT no FROM runs")}
        for row in self._rows("trigger ids", f"SELECT {columns} FROM keys"):  # noqa: S608
            key, no, *_ = row
            if checksum_matches(row) and no in run_numbers:
                execute_bulk(self._new.db, statements.INSERT_KEYS, [row])
            else:
                self._add_lost(f"trigger id {key!r}: if it is sent again, it starts a second run")

    def _copy_counts(self) -> None:
        """Copy the counts by minute and hour. They cannot be rebuilt: they include purged runs."""
        if self._old_format < HANDLED_SINCE:
            return
        for table in ("minutes", "hours"):
            for row in self._rows(f"counts of {table}", f"SELECT * FROM {table}"):  # noqa: S608
                if checksum_matches(row):
                    execute_bulk(self._new.db, f"INSERT INTO {table} VALUES ", [row])  # noqa: S608
                else:
                    self._add_lost(f"a row of the counts of {table}")

    def _write_meta(self) -> None:
        rows = [row for row in self._rows("counts", "SELECT * FROM meta") if checksum_matches(row)]
        values = {name: value for name, value, _ in rows}
        counts = self._new.counts | {name: values[name] for name in LOSSES if name in values}
        if self._old_format >= CHECKSUMS_SINCE:
            names = ("projected", "ended_until")
            is_known = all(name in values for name in names)
            self.positions = Projected(*(values[name] for name in names)) if is_known else None
        if "minute" in values:
            counts["minute"] = values["minute"]
        for name, value in {**counts, "clean": 0}.items():
            self._new.db.execute(statements.SET_META, {"name": name, "value": value})

    def _rows(self, name: str, statement: str, *, note: bool = True) -> Iterator[tuple[Any, ...]]:
        """Yield rows of the old history until reading fails. ``note``: note a failure in `lost`."""
        try:
            rows = self._old.execute(statement)
            while (row := rows.fetchone()) is not None:
                yield row
        except sqlite3.DatabaseError as error:
            if note:
                self._add_lost(f"some {name} ({error})")

    def _add_lost(self, loss: str) -> None:
        self.lost.append(loss.encode("utf-8", "replace").decode())
