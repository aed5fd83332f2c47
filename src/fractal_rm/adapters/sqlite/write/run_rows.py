"""The rows that one transaction writes about runs."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Union

import msgspec

from fractal_rm.adapters.log.run_updates import RunStart, RunUpdate
from fractal_rm.adapters.log.timed import Ref
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.bulk import Rows, execute_bulk
from fractal_rm.adapters.sqlite.format.faults import Faults
from fractal_rm.adapters.sqlite.format.page_chain import ChainBroken, chain_start, page_sum
from fractal_rm.adapters.sqlite.format.row_sums import row_sum, with_sum
from fractal_rm.adapters.sqlite.format.schema import PAGE_BITS
from fractal_rm.adapters.sqlite.format.spans import EndedRun, add_to_spans
from fractal_rm.adapters.sqlite.write.last_pages import LastPage
from fractal_rm.domain.state import TROUBLE_STATES

# number, id, flow, source, accepted_ms, parent, duplicates
Unchanged = tuple[int, str, Union[str, None], str, int, Union[str, None], int]
_decode = msgspec.json.Decoder(list[Unchanged]).decode


class WrittenRuns(msgspec.Struct, gc=False):
    """What a transaction has written, and what its caller must still write.

    The caller inserts ``key_rows`` and adds ``counts`` to those in ``meta``. ``last_pages`` are
    those of runs that are still open, ``ended`` the ids of the others. ``next_no`` is the number
    of the next new run.
    """

    next_no: int
    key_rows: Rows = []
    last_pages: dict[str, LastPage] = {}
    ended: list[str] = []
    counts: dict[str, int] = {}


class RunRows:
    """Call `update`, `insert` as often as needed, `finish`. All raise sqlite3.Error."""

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
        self._pages: Rows = []  # of the current call
        self._blobs: Rows = []
        self._spans: list[EndedRun] = []
        self._in_trouble: list[int] = []
        self._again: list[tuple[int, str]] = []
        self.written = WrittenRuns(next_no, counts={"accepted": 0})

    def insert(self, stories: Iterable[RunUpdate]) -> None:
        """Insert new runs, at the ends of the tables: no existing row is read."""
        rows = [self._new_row(story, story.new) for story in stories if story.new is not None]
        self.written.counts["accepted"] += len(rows)
        execute_bulk(self._db, statements.INSERT_RUNS, rows)
        self._insert_pages()

    def update(
        self, stories: Iterable[RunUpdate], last_pages: Callable[[], Mapping[str, LastPage]]
    ) -> None:
        """Update existing runs. Raises ChainBroken if ``last_pages``, by run id, lacks a run."""
        changed_stories = [story for story in stories if story.has_facts]
        if not changed_stories:
            return
        known = last_pages()
        changed = [(story, _last_page(known, story.run_id)) for story in changed_stories]
        rows = self._changed_rows(changed)
        execute_bulk(self._db, statements.UPDATE_RUNS[0], rows, statements.UPDATE_RUNS[1])
        self._insert_pages()

    def finish(self, again: Mapping[str, int]) -> None:
        """Write all other tables except ``keys``. ``again``: see `RunUpdates`."""
        db = self._db
        db.executemany(statements.INSERT_FLOW, self._flows.items())
        execute_bulk(db, statements.INSERT_FAULTS, self._faults.new_rows)
        self._again += ((times, run_id) for run_id, times in again.items())
        db.executemany(statements.COUNT_DUPLICATES, self._again)
        add_to_spans(db, self._spans)
        execute_bulk(db, statements.INSERT_BLOBS, self._blobs)
        counts = self.written.counts
        counts["settled"] = len(self.written.ended)
        if self._blobs:
            counts["blob_bytes"] = sum(size for _, _, size, *_ in self._blobs)
        if self._in_trouble:
            counts["trouble_bytes"] = bytes_of(db, self._in_trouble)

    def _new_row(self, story: RunUpdate, new: RunStart) -> tuple[Any, ...]:
        run_id, no = story.run_id, self.written.next_no
        self.written.next_no += 1
        pages, chain = self._add_page(story, (no, 0, chain_start(run_id)))
        if story.settled_ms is not None:
            self._spans.append((no, new.flow, story.state.text, new.accepted_ms, run_id))
        if new.key is not None:
            self.written.key_rows.append(with_sum((new.key, no, new.digest, new.key_until_ms)))
        return with_sum(
            (no, run_id, new.flow, story.state.text, story.reason, new.source, story.node,
             new.accepted_ms, story.settled_ms, story.ahead_ms, new.parent,
             self._fault(story, no), pages, chain, 0)
        )  # fmt: skip

    def _changed_rows(self, changed: Sequence[tuple[RunUpdate, LastPage]]) -> Rows:
        """The changed columns of existing rows, with their new checksums."""
        rows: Rows = []
        chosen = json.dumps([last[0] for _, last in changed])
        (found,) = self._db.execute(statements.UNCHANGED, (chosen,)).fetchone()
        unchanged = {row[0]: row for row in _decode(found)}
        for story, last in changed:
            pages, chain = self._add_page(story, last)
            no, run_id, flow, source, accepted_ms, parent, duplicates = unchanged[last[0]]
            state, fault = story.state.text, self._fault(story, no)
            row = (no, run_id, flow, state, story.reason, source, story.node, accepted_ms,
                   story.settled_ms, story.ahead_ms, parent, fault, pages, chain,
                   duplicates)  # fmt: skip
            rows.append(
                (no, state, story.reason, story.node, story.settled_ms, story.ahead_ms, fault,
                 pages, chain, row_sum(*row))
            )  # fmt: skip
            if story.settled_ms is not None:
                self._spans.append((no, flow, state, accepted_ms, run_id))
        return rows

    def _fault(self, story: RunUpdate, no: int) -> int | None:
        if story.state not in TROUBLE_STATES:
            return None
        self._in_trouble.append(no)
        return self._faults.number_of(self._db, story, no, self._flows)

    def _add_page(self, story: RunUpdate, last: LastPage) -> tuple[int, int]:
        """Collect the page of a run: one for each transaction that writes its facts.

        Returns the number of its pages, and the checksum of this one.
        """
        no, pages, chain = last
        pages += 1
        body = story.body()
        chain = page_sum(chain, pages, body)
        self._pages.append((no << PAGE_BITS | pages, body, chain))
        if story.settled_ms is not None:
            self.written.ended.append(story.run_id)
        else:
            self.written.last_pages[story.run_id] = no, pages, chain
        if story.duplicates:
            self._again.append((story.duplicates, story.run_id))
        if story.refs:
            self._blobs += blob_rows(no, story.refs)
        return pages, chain

    def _insert_pages(self) -> None:
        execute_bulk(self._db, statements.INSERT_PAGES, self._pages)
        self._pages = []


def _last_page(known: Mapping[str, LastPage], run_id: str) -> LastPage:
    last = known.get(run_id)
    if last is None:
        raise ChainBroken(f"run {run_id} of its log is missing")
    return last


def blob_rows(no: int, refs: Iterable[Ref]) -> Rows:
    """The rows for the blobs of a run."""
    return [with_sum((no, ref.name, ref.size, ref.crc)) for ref in refs if ref.name is not None]


def bytes_of(db: sqlite3.Connection, numbers: Sequence[int]) -> int:
    """The size of the facts and blobs of runs. Raises sqlite3.Error."""
    chosen = (json.dumps(numbers),)
    counted = (statements.TROUBLE_BYTES, statements.BLOB_BYTES)
    return sum(db.execute(statement, chosen).fetchone()[0] for statement in counted)
