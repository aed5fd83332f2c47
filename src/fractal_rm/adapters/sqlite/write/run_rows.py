"""Build and write the rows about runs, in one transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Union

import msgspec

from fractal_rm.adapters.log import timed
from fractal_rm.adapters.log.run_updates import RunStart, RunUpdate
from fractal_rm.adapters.log.timed import Ref
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.blocks import add_to_blocks
from fractal_rm.adapters.sqlite.format.bulk import Rows, execute_bulk
from fractal_rm.adapters.sqlite.format.faults import Faults
from fractal_rm.adapters.sqlite.format.page_chain import (
    ChainBroken,
    chain_start,
    encode_page,
    page_checksum,
)
from fractal_rm.adapters.sqlite.format.row_sums import row_sum, with_checksum
from fractal_rm.adapters.sqlite.format.run_row import RunRow
from fractal_rm.adapters.sqlite.format.schema import PAGE_BITS
from fractal_rm.adapters.sqlite.format.spans import (
    Columns,
    EndedRun,
    Kind,
    add_to_spans,
    group_ended,
)
from fractal_rm.adapters.sqlite.write.last_pages import LastPage
from fractal_rm.adapters.sqlite.write.minutes import BegunRuns
from fractal_rm.domain.facts import Discarded
from fractal_rm.domain.state import TROUBLE_STATES

# One run of the result of KEPT_COLUMNS: number, id, flow, source, accepted_ms, parent and
# duplicates.
Kept = tuple[int, str, Union[str, None], str, int, Union[str, None], int]
_FLOW, _ACCEPTED_MS = itemgetter(2), itemgetter(7)  # of a row of `runs`
_decode = msgspec.json.Decoder(list[Kept]).decode


class WrittenRuns(msgspec.Struct, gc=False):
    """The result of a transaction, and what its caller must still write.

    The caller inserts ``key_rows``, and adds ``counts`` to the counts in ``meta``. ``last_pages``
    are the last pages of written runs that are still open; ``ended_ids`` are the ids of written
    runs that have ended. ``begun`` and ``ended`` describe the new and the ended runs. ``next_no``
    is the number of the next new run.
    """

    begun: BegunRuns

    next_no: int
    key_rows: Rows = []
    last_pages: dict[str, LastPage] = {}
    ended_ids: list[str] = []
    ended: Mapping[Kind, Columns] = {}
    counts: dict[str, int] = {}


class RunRows:
    """Call `update`, then `insert` as often as needed, then `finish`.

    All methods raise sqlite3.Error.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        flows: Mapping[str, bytes],
        next_no: int,
        faults: Faults,
    ) -> None:
        self._db = db
        self._flows = flows
        self._faults = faults
        self._pages: Rows = []  # new pages; `insert` and `update` write them
        self._blobs: Rows = []
        self._handled: Rows = []
        self._ended: list[EndedRun] = []
        self._in_trouble: list[int] = []
        self._duplicates: list[tuple[int, str]] = []
        self.written = WrittenRuns(BegunRuns(next_no), next_no, counts={"accepted": 0})

    def insert(self, updates: Iterable[RunUpdate]) -> None:
        """Insert new runs at the end of each table. Reads no existing rows."""
        rows = [self._new_row(update, update.new) for update in updates if update.new is not None]
        self.written.counts["accepted"] += len(rows)
        begun = self.written.begun
        begun.flows.extend(map(_FLOW, rows))
        begun.times_ms.extend(map(_ACCEPTED_MS, rows))
        execute_bulk(self._db, statements.INSERT_RUNS, rows)
        self._insert_pages()

    def update(
        self, updates: Iterable[RunUpdate], last_pages: Callable[[], Mapping[str, LastPage]]
    ) -> None:
        """Update existing runs. ``last_pages`` returns their last pages by run id.

        Raises ChainBroken if ``last_pages`` lacks a run.
        """
        with_facts = [update for update in updates if update.has_facts]
        if not with_facts:
            return
        pages_by_run = last_pages()
        changed = [(update, _last_page(pages_by_run, update.run_id)) for update in with_facts]
        rows = self._changed_rows(changed)
        head, tail = statements.UPDATE_RUNS
        execute_bulk(self._db, head, rows, tail)
        self._insert_pages()

    def finish(self, duplicates: Mapping[str, int], after_end: Mapping[str, list[Any]]) -> None:
        """Write all other tables except ``keys``.

        ``duplicates``: by run id, how often the trigger of a run arrived again. ``after_end``: by
        run id, facts of runs that had ended before.
        """
        db = self._db
        db.executemany(statements.INSERT_FLOW, self._flows.items())
        execute_bulk(db, statements.INSERT_FAULTS, self._faults.new_rows)
        self._duplicates += ((count, run_id) for run_id, count in duplicates.items())
        db.executemany(statements.COUNT_DUPLICATES, self._duplicates)
        begun = self.written.begun
        add_to_blocks(db, begun.first_no, begun.times_ms)
        self.written.ended = group_ended(self._ended)
        add_to_spans(db, self.written.ended)
        execute_bulk(db, statements.INSERT_BLOBS, self._blobs)
        counts = self.written.counts
        counts["settled"] = len(self.written.ended_ids)
        if self._blobs:
            counts["blob_bytes"] = sum(size for _, _, size, *_ in self._blobs)
        if self._in_trouble:
            counts["trouble_bytes"] = bytes_of(db, self._in_trouble)
        for run_id, facts in after_end.items():
            self._add_after_end(run_id, facts)
            self._handled += discards_in(run_id, facts)
        execute_bulk(db, statements.REPLACE_HANDLED, self._handled)

    def _add_after_end(self, run_id: str, facts: list[Any]) -> None:
        """Add a page with facts to an ended run, and update its row.

        Nothing is written about a run whose facts are no longer kept.
        """
        values = self._db.execute(statements.RUN_BY_ID, (run_id,)).fetchone()
        row = None if values is None else RunRow._make(values)
        if row is None or row.settled_ms is None or not row.pages:
            return
        body, pages = encode_page(facts), row.pages + 1
        chain = page_checksum(row.chain, pages, body)
        self._pages.append((row.no << PAGE_BITS | pages, body, chain))
        self._insert_pages()
        row = RunRow._make(with_checksum(row._replace(pages=pages, chain=chain)[:-1]))
        self._db.execute(statements.SET_PAGES, (row.pages, row.chain, row.sum, row.no))
        if row.fault is not None:
            counts = self.written.counts
            added_bytes = len(body) + statements.PAGE_ROW_BYTES
            counts["trouble_bytes"] = counts.get("trouble_bytes", 0) + added_bytes

    def _new_row(self, update: RunUpdate, new: RunStart) -> tuple[Any, ...]:
        run_id, no = update.run_id, self.written.next_no
        self.written.next_no += 1
        pages, chain = self._add_page(update, (no, 0, chain_start(run_id)))
        if update.settled_ms is not None:
            self._ended.append(
                (no, new.flow, update.state.text, new.accepted_ms, run_id, update.settled_ms)
            )
        if new.replays is not None:
            self._handled.append(with_checksum((new.replays, run_id, new.accepted_ms, new.actor)))
        if new.key is not None:
            self.written.key_rows.append(with_checksum((new.key, no, new.digest, new.key_until_ms)))
        return with_checksum(
            (no, run_id, new.flow, update.state.text, update.reason, new.source, update.node,
             new.accepted_ms, update.settled_ms, update.ahead_ms, new.parent,
             self._fault(update, no), pages, chain, 0)
        )  # fmt: skip

    def _changed_rows(self, changed: Sequence[tuple[RunUpdate, LastPage]]) -> Rows:
        """Return the changed columns of existing rows, with their new checksums."""
        rows: Rows = []
        json_numbers = json.dumps([no for _, (no, _, _) in changed])
        (json_rows,) = self._db.execute(statements.KEPT_COLUMNS, (json_numbers,)).fetchone()
        kept_by_number = {row[0]: row for row in _decode(json_rows)}
        for update, last_page in changed:
            no, _, _ = last_page
            _, run_id, flow, source, accepted_ms, parent, duplicates = kept_by_number[no]
            pages, chain = self._add_page(update, last_page)
            state, fault = update.state.text, self._fault(update, no)
            row = (no, run_id, flow, state, update.reason, source, update.node, accepted_ms,
                   update.settled_ms, update.ahead_ms, parent, fault, pages, chain,
                   duplicates)  # fmt: skip
            rows.append(
                (no, state, update.reason, update.node, update.settled_ms, update.ahead_ms, fault,
                 pages, chain, row_sum(*row))
            )  # fmt: skip
            if update.settled_ms is not None:
                self._ended.append((no, flow, state, accepted_ms, run_id, update.settled_ms))
        return rows

    def _fault(self, update: RunUpdate, no: int) -> int | None:
        if update.state not in TROUBLE_STATES:
            return None
        self._in_trouble.append(no)
        return self._faults.row_number_of(self._db, update, no, self._flows)

    def _add_page(self, update: RunUpdate, last: LastPage) -> tuple[int, int]:
        """Add a page with the facts that this transaction writes about a run.

        Returns the number of the run's pages, and the checksum of the new page.
        """
        no, pages, chain = last
        pages += 1
        body = update.body()
        chain = page_checksum(chain, pages, body)
        self._pages.append((no << PAGE_BITS | pages, body, chain))
        if update.settled_ms is not None:
            self.written.ended_ids.append(update.run_id)
        else:
            self.written.last_pages[update.run_id] = no, pages, chain
        if update.duplicates:
            self._duplicates.append((update.duplicates, update.run_id))
        if update.refs:
            self._blobs += blob_rows(no, update.refs)
        return pages, chain

    def _insert_pages(self) -> None:
        execute_bulk(self._db, statements.INSERT_PAGES, self._pages)
        self._pages = []


def _last_page(pages_by_run: Mapping[str, LastPage], run_id: str) -> LastPage:
    last = pages_by_run.get(run_id)
    if last is None:
        raise ChainBroken(f"run {run_id} is in its log, but is missing in its history")
    return last


def discards_in(run_id: str, facts: Iterable[Any]) -> Rows:
    """Return the rows of ``handled`` for facts after the end of a run."""
    decoded = timed.decode_page(encode_page(list(facts)))
    return [
        with_checksum((run_id, "", each.at_ms, each.fact.actor))
        for each in decoded
        if isinstance(each.fact, Discarded)
    ]


def blob_rows(no: int, refs: Iterable[Ref]) -> Rows:
    """Return the rows for the blobs of a run."""
    existing = (ref for ref in refs if ref.name is not None)
    return [with_checksum((no, ref.name, ref.size, ref.crc)) for ref in existing]


def bytes_of(db: sqlite3.Connection, numbers: Sequence[int]) -> int:
    """Return the size of the facts and blobs of runs, in bytes. Raises sqlite3.Error."""
    json_numbers = json.dumps(numbers)
    size_queries = (statements.TROUBLE_BYTES, statements.BLOB_BYTES)
    return sum(db.execute(statement, (json_numbers,)).fetchone()[0] for statement in size_queries)
