"""The new history that a repair builds. It inserts runs into all tables."""

from __future__ import annotations

import sqlite3
from typing import Any

from msgspec import UNSET

from fractal_rm.adapters.log.run_updates import RunUpdate
from fractal_rm.adapters.log.timed import Timed
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.blocks import add_to_blocks
from fractal_rm.adapters.sqlite.format.bulk import execute_bulk
from fractal_rm.adapters.sqlite.format.faults import Faults
from fractal_rm.adapters.sqlite.format.row_sums import with_checksum
from fractal_rm.adapters.sqlite.format.run_row import RunRow
from fractal_rm.adapters.sqlite.format.schema import PAGE_BITS
from fractal_rm.adapters.sqlite.format.spans import add_to_spans, group_ended
from fractal_rm.adapters.sqlite.read.salvage import Page
from fractal_rm.adapters.sqlite.repair.blobs import refs_in_page
from fractal_rm.adapters.sqlite.write.run_rows import blob_rows, bytes_of, discards_in
from fractal_rm.domain.facts import Accepted, Discarded, none_if_unset
from fractal_rm.domain.run import Run, parent_id_of
from fractal_rm.domain.state import TROUBLE_STATES


class NewHistory:
    """Inserts runs. ``runs`` is the number of inserted runs.

    ``counts`` are values that the caller must write to the table ``meta``. All methods raise
    sqlite3.Error.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self._faults = Faults(db)
        self.counts = {"accepted": 0, "settled": 0, "trouble_bytes": 0, "blob_bytes": 0}
        self.runs = 0

    def add_run(
        self, no: int, run: Run, facts: list[Timed], pages: list[Page], old_row: RunRow | None
    ) -> None:
        """Insert a run. ``pages`` contain the encoded ``facts``.

        The row is rebuilt from the facts. Values that facts do not contain come from the old row.
        """
        refs = [ref for _, _, body, _ in pages for ref in refs_in_page(body)]
        execute_bulk(self.db, statements.INSERT_BLOBS, blob_rows(no, refs))
        self.counts["blob_bytes"] += sum(ref.size for ref in refs)
        rows = [
            (run_no << PAGE_BITS | number, body, page_checksum)
            for run_no, number, body, page_checksum in pages
        ]
        execute_bulk(self.db, statements.INSERT_PAGES, rows)
        ended_ahead_ms = duplicates = 0
        if old_row is not None:
            ended_ahead_ms, duplicates = old_row.ended_ahead_ms, old_row.duplicates
        at_ms, first = facts[0].at_ms, facts[0].fact
        settled_ms = end_ms(facts) if run.state.final else None
        flow = getattr(first, "flow", None)
        count, chain = count_and_last_sum(pages)
        self.add_row(RunRow(
            no=no, id=run.id, flow=flow, state=run.state.text, reason=run.reason,
            source=getattr(first, "source", ""), node=run.node, accepted_ms=at_ms,
            settled_ms=settled_ms, ended_ahead_ms=ended_ahead_ms,
            parent=parent_id_of(first), fault=self._fault_of_run(no, run, flow), pages=count,
            chain=chain, duplicates=duplicates, sum=None,
        ))  # fmt: skip
        execute_bulk(self.db, statements.REPLACE_HANDLED, handled_rows(run.id, facts))
        if run.state in TROUBLE_STATES:
            self.counts["trouble_bytes"] += bytes_of(self.db, [no])

    def add_row(self, row: RunRow) -> None:
        """Insert a row of ``runs``. The checksum of the row is computed."""
        execute_bulk(self.db, statements.INSERT_FAULTS, self._faults.new_rows)
        self._faults.commit()
        execute_bulk(self.db, statements.INSERT_RUNS, [with_checksum(row[:-1])])
        has_ended = row.settled_ms is not None
        if has_ended:
            ended = (row.no, row.flow, row.state, row.accepted_ms, row.id, row.settled_ms)
            add_to_spans(self.db, group_ended([ended]))
        add_to_blocks(self.db, row.no, [row.accepted_ms])
        self.runs += 1
        self.counts["accepted"] += 1
        self.counts["settled"] += has_ended

    def has_flow(self, version: object) -> bool:
        """Return whether a flow version has been inserted."""
        return self.db.execute(statements.FLOW_BODY, (version,)).fetchone() is not None

    def fault_of(self, no: int, update: RunUpdate) -> int:
        """Return the row number of a run's kind of failure."""
        return self._faults.row_number_of(self.db, update, no, {})

    def _fault_of_run(self, no: int, run: Run, flow: str | None) -> int | None:
        if run.state not in TROUBLE_STATES:
            return None
        update = RunUpdate(run.id)
        update.copy_state_of(run)
        update.flow = flow
        return self.fault_of(no, update)


def handled_rows(run_id: str, facts: list[Timed]) -> list[tuple[Any, ...]]:
    """Return the rows of ``handled`` for the facts of a run."""
    at_ms, first = facts[0].at_ms, facts[0].fact
    rows = discards_in(run_id, facts)
    if isinstance(first, Accepted) and first.replays is not UNSET:
        rows.append(with_checksum((first.replays, run_id, at_ms, none_if_unset(first.actor))))
    return rows


def end_ms(facts: list[Timed]) -> int:
    """When an ended run ended: the time of its last fact, without facts after the end."""
    return next(each.at_ms for each in reversed(facts) if not isinstance(each.fact, Discarded))


def count_and_last_sum(pages: list[Page]) -> tuple[int, int]:
    """Return the columns ``pages`` and ``chain`` of a run with these pages."""
    if not pages:
        return 0, 0
    *_, last_sum = pages[-1]
    return len(pages), last_sum
