"""What the log tells of runs, as rows of the history."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Union

import msgspec

from fractal_rm.adapters.log.stories import Beginning, Story
from fractal_rm.adapters.log.timed import Ref
from fractal_rm.adapters.sqlite import statements
from fractal_rm.adapters.sqlite.chain import ChainBroken, link, start_of
from fractal_rm.adapters.sqlite.faults import Faults
from fractal_rm.adapters.sqlite.last_pages import LastPage
from fractal_rm.adapters.sqlite.many import Rows, many_at_once
from fractal_rm.adapters.sqlite.schema import PAGE_BITS
from fractal_rm.adapters.sqlite.spans import Ended, widen
from fractal_rm.adapters.sqlite.sums import row_sum, summed
from fractal_rm.domain.state import TROUBLE

# Of a run: its number, id, flow, source, acceptance, parent, and how often its trigger came again.
Unchanged = tuple[int, str, Union[str, None], str, int, Union[str, None], int]
_decode = msgspec.json.Decoder(list[Unchanged]).decode


class Writing:
    """What one transaction writes, apart from what is known until it is durable.

    `change` what the history has, `add` what is new, `end`. ``counts`` are what is added to those
    in `meta`. All raise sqlite3.Error.
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
        self._pages: Rows = []  # of one call
        self._blobs: Rows = []
        self._ended: list[Ended] = []
        self._in_trouble: list[int] = []
        self._again: list[tuple[int, str]] = []
        self.next_no = next_no
        self.key_rows: Rows = []
        self.last_pages: dict[str, LastPage] = {}  # of runs that stay open
        self.ended: list[str] = []
        self.counts = {"accepted": 0}

    def add(self, stories: Iterable[Story]) -> None:
        """New runs. They go to the ends of the tables: nothing old is read for them."""
        rows = [self._new_row(story, story.new) for story in stories if story.new is not None]
        self.counts["accepted"] += len(rows)
        many_at_once(self._db, statements.INSERT_RUNS, rows)
        self._put_pages()

    def change(
        self, stories: Iterable[Story], last_pages: Callable[[], Mapping[str, LastPage]]
    ) -> None:
        """Runs that are there; ``last_pages`` tells, by id. Raises ChainBroken where one is not."""
        told = [story for story in stories if story.is_told]
        if not told:
            return
        known = last_pages()
        changed = [(story, _last_page(known, story.run_id)) for story in told]
        rows = self._changed_rows(changed)
        many_at_once(self._db, statements.UPDATE_RUNS[0], rows, statements.UPDATE_RUNS[1])
        self._put_pages()

    def end(self, again: Mapping[str, int]) -> None:
        """What stands beside the runs, but for the keys; ``again``: see `Stories`."""
        db = self._db
        db.executemany(statements.INSERT_FLOW, self._flows.items())
        many_at_once(db, statements.INSERT_FAULTS, self._faults.new_rows)
        self._again += ((times, run_id) for run_id, times in again.items())
        db.executemany(statements.COUNT_DUPLICATES, self._again)
        widen(db, self._ended)
        many_at_once(db, statements.INSERT_BLOBS, self._blobs)
        self.counts["settled"] = len(self.ended)
        if self._blobs:
            self.counts["blob_bytes"] = sum(size for _, _, size, *_ in self._blobs)
        if self._in_trouble:
            self.counts["trouble_bytes"] = bytes_of(db, self._in_trouble)

    def _new_row(self, story: Story, new: Beginning) -> tuple[Any, ...]:
        run_id, no = story.run_id, self.next_no
        self.next_no += 1
        pages, chain = self._close(story, (no, 0, start_of(run_id)))
        if story.settled_ms is not None:
            self._ended.append((no, new.flow, story.state.text, new.accepted_ms, run_id))
        if new.key is not None:
            self.key_rows.append(summed((new.key, no, new.digest, new.key_until_ms)))
        return summed(
            (no, run_id, new.flow, story.state.text, story.reason, new.source, story.node,
             new.accepted_ms, story.settled_ms, story.ahead_ms, new.parent,
             self._fault(story, no), pages, chain, 0)
        )  # fmt: skip

    def _changed_rows(self, changed: Sequence[tuple[Story, LastPage]]) -> Rows:
        """What changes of rows that are there, with their new checksums."""
        rows: Rows = []
        chosen = json.dumps([last[0] for _, last in changed])
        (found,) = self._db.execute(statements.UNCHANGED, (chosen,)).fetchone()
        unchanged = {row[0]: row for row in _decode(found)}
        for story, last in changed:
            pages, chain = self._close(story, last)
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
                self._ended.append((no, flow, state, accepted_ms, run_id))
        return rows

    def _fault(self, story: Story, no: int) -> int | None:
        if story.state not in TROUBLE:
            return None
        self._in_trouble.append(no)
        return self._faults.number(self._db, story, no, self._flows)

    def _close(self, story: Story, last: LastPage) -> tuple[int, int]:
        """What one transaction writes of a run is one page of it."""
        no, pages, chain = last
        pages += 1
        body = story.body()
        chain = link(chain, pages, body)
        self._pages.append((no << PAGE_BITS | pages, body, chain))
        if story.settled_ms is not None:
            self.ended.append(story.run_id)
        else:
            self.last_pages[story.run_id] = no, pages, chain
        if story.again:
            self._again.append((story.again, story.run_id))
        if story.refs:
            self._blobs += blob_rows(no, story.refs)
        return pages, chain

    def _put_pages(self) -> None:
        many_at_once(self._db, statements.INSERT_PAGES, self._pages)
        self._pages = []


def _last_page(known: Mapping[str, LastPage], run_id: str) -> LastPage:
    last = known.get(run_id)
    if last is None:
        raise ChainBroken(f"run {run_id}, of which its log tells, is not in it")
    return last


def blob_rows(no: int, refs: Iterable[Ref]) -> Rows:
    """Of a run by number."""
    return [summed((no, ref.name, ref.size, ref.crc)) for ref in refs if ref.name is not None]


def bytes_of(db: sqlite3.Connection, numbers: Sequence[int]) -> int:
    """What the facts of runs take, with their blobs. Raises sqlite3.Error."""
    chosen = (json.dumps(numbers),)
    counted = (statements.TROUBLE_BYTES, statements.BLOB_BYTES)
    return sum(db.execute(statement, chosen).fetchone()[0] for statement in counted)
