"""What the log tells of runs, as rows of the history."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Union

import msgspec

from fractal_rm.adapters.log.stories import Beginning, Stories, Story
from fractal_rm.adapters.sqlite import statements
from fractal_rm.adapters.sqlite.chain import link, start_of
from fractal_rm.adapters.sqlite.faults import Faults
from fractal_rm.adapters.sqlite.many import Rows, many_at_once
from fractal_rm.adapters.sqlite.schema import PAGE_BITS
from fractal_rm.adapters.sqlite.spans import Ended, widen
from fractal_rm.adapters.sqlite.sums import row_sum, summed
from fractal_rm.domain.state import TROUBLE

Tail = tuple[int, int, int]  # of an open run: its number, how many pages, the last one's checksum
# Of a run: its number, id, flow, source, acceptance, parent, and how often its trigger came again.
Unchanged = tuple[int, str, Union[str, None], str, int, Union[str, None], int]
_decode = msgspec.json.Decoder(list[Unchanged]).decode


class Writing:
    """The rows of one transaction, apart from what is known until it is durable.

    ``counts`` are what is added to those in `meta`. Raises sqlite3.Error, as `put` does.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        stories: Stories,
        open_runs: Mapping[str, Tail],
        next_no: int,
        faults: Faults,
    ) -> None:
        self._db = db
        self._open = open_runs
        self._faults = faults
        self._flows = stories.flows
        self._new_rows: Rows = []
        self._changed: list[tuple[int, Story, int, int]] = []
        self._page_rows: Rows = []
        self._again = [(times, run_id) for run_id, times in stories.again.items()]
        self._ended: list[Ended] = []
        self._in_trouble: list[int] = []
        self.next_no = next_no
        self.key_rows: Rows = []
        self.tails: dict[str, Tail] = {}  # of runs that stay open
        self.ended: list[str] = []
        for story in stories:
            if story.new is not None:
                self._add(story, story.new)
            elif story.facts or story.page:
                self._change(story)
            if story.again:
                self._again.append((story.again, story.run_id))
        self.counts = {"accepted": len(self._new_rows), "settled": len(self.ended)}

    def put(self) -> None:
        """Write all but the keys, with a handful of statements."""
        db, changed = self._db, self._changed_rows()
        db.executemany(statements.INSERT_FLOW, self._flows.items())
        many_at_once(db, statements.INSERT_FAULTS, self._faults.new_rows)
        many_at_once(db, statements.INSERT_RUNS, self._new_rows)
        many_at_once(db, statements.INSERT_PAGES, self._page_rows)
        many_at_once(db, statements.UPDATE_RUNS[0], changed, statements.UPDATE_RUNS[1])
        db.executemany(statements.COUNT_DUPLICATES, self._again)
        widen(db, self._ended)
        if self._in_trouble:
            chosen = json.dumps(self._in_trouble)
            self.counts["trouble_bytes"] = db.execute(
                statements.TROUBLE_BYTES, (chosen,)
            ).fetchone()[0]

    def _add(self, story: Story, new: Beginning) -> None:
        run_id, no = story.run_id, self.next_no
        self.next_no += 1
        pages, chain = self._close(story, (no, 0, start_of(run_id)))
        if story.settled_ms is not None:
            self._ended.append((no, new.flow, story.state.text, new.accepted_ms, run_id))
        self._new_rows.append(summed(
            (no, run_id, new.flow, story.state.text, story.reason, new.source, story.node,
             new.accepted_ms, story.settled_ms, story.ahead_ms, new.parent,
             self._fault(story, no), pages, chain, 0)
        ))  # fmt: skip
        if new.key is not None:
            self.key_rows.append(summed((new.key, no, new.digest, new.key_until_ms)))

    def _change(self, story: Story) -> None:
        tail = self._open[story.run_id]
        pages, chain = self._close(story, tail)
        self._changed.append((tail[0], story, pages, chain))

    def _changed_rows(self) -> Rows:
        """What changes of rows that are there, with their new checksums."""
        rows: Rows = []
        chosen = json.dumps([no for no, *_ in self._changed])
        (found,) = self._db.execute(statements.UNCHANGED, (chosen,)).fetchone()
        unchanged = {row[0]: row for row in _decode(found)}
        for no, story, pages, chain in self._changed:
            _, run_id, flow, source, accepted_ms, parent, duplicates = unchanged[no]
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

    def _close(self, story: Story, tail: Tail) -> tuple[int, int]:
        """What one transaction writes of a run is one page of it."""
        no, pages, chain = tail
        pages += 1
        body = story.body()
        chain = link(chain, pages, body)
        self._page_rows.append((no << PAGE_BITS | pages, body, chain))
        if story.settled_ms is not None:
            self.ended.append(story.run_id)
        else:
            self.tails[story.run_id] = no, pages, chain
        return pages, chain
