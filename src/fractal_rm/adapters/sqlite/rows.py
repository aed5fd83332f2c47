"""What the log tells of runs, as rows of the history."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any

from fractal_rm.adapters.log.records import encode
from fractal_rm.adapters.log.stories import Beginning, Stories, Story
from fractal_rm.adapters.sqlite import schema
from fractal_rm.adapters.sqlite.chain import link, start_of
from fractal_rm.adapters.sqlite.schema import PAGE_BITS

Tail = tuple[int, int, int]  # of an open run: its number, how many pages, the last one's checksum
Rows = list[tuple[Any, ...]]
ROWS_AT_ONCE = 64


class Writing:
    """The rows of one transaction, apart from what is known until it is durable."""

    def __init__(self, stories: Stories, open_runs: Mapping[str, Tail], next_no: int) -> None:
        self._open = open_runs
        self.flows = stories.flows
        self.next_no = next_no
        self.new_rows: Rows = []
        self.changed_rows: Rows = []
        self.page_rows: Rows = []
        self.key_rows: Rows = []
        self.again_rows: list[tuple[int, str]] = []
        self.tails: dict[str, Tail] = {}  # of runs that stay open
        self.ended: list[str] = []
        for story in stories.by_run.values():
            if story.new is not None:
                self._add(story, story.new)
            elif story.facts:
                self._change(story)
            if story.again:
                self.again_rows.append((story.again, story.run_id))

    def put(self, db: sqlite3.Connection) -> None:
        """Write runs, pages and flows, with a handful of statements. Raises sqlite3.Error."""
        db.executemany(schema.INSERT_FLOW, self.flows.items())
        many_at_once(db, schema.INSERT_RUNS, self.new_rows)
        many_at_once(db, schema.INSERT_PAGES, self.page_rows)
        many_at_once(db, schema.UPDATE_RUNS[0], self.changed_rows, schema.UPDATE_RUNS[1])
        db.executemany(schema.COUNT_DUPLICATES, self.again_rows)

    def _add(self, story: Story, new: Beginning) -> None:
        run_id = story.run_id
        start = (self.next_no, 0, start_of(run_id))
        self.next_no += 1
        no, pages, last = self._close(story, start)
        self.new_rows.append(
            (no, run_id, new.flow, story.state.text, story.reason, new.source, story.node,
             new.accepted_ms, story.settled_ms, pages, last, story.ahead_ms)
        )  # fmt: skip
        if new.key is not None:
            self.key_rows.append((new.key, no, new.digest, new.key_until_ms))

    def _change(self, story: Story) -> None:
        no, pages, last = self._close(story, self._open[story.run_id])
        self.changed_rows.append(
            (no, story.state.text, story.reason, story.node, story.settled_ms, pages, last,
             story.ahead_ms)
        )  # fmt: skip

    def _close(self, story: Story, tail: Tail) -> Tail:
        """What one transaction writes of a run is one page of it."""
        no, pages, last = tail
        pages += 1
        body = encode(story.facts)
        last = link(last, pages, body)
        self.page_rows.append((no << PAGE_BITS | pages, body, last))
        if story.settled_ms is not None:
            self.ended.append(story.run_id)
        else:
            self.tails[story.run_id] = no, pages, last
        return no, pages, last


def many_at_once(
    db: sqlite3.Connection, head: str, rows: Sequence[tuple[Any, ...]], tail: str = ""
) -> Rows:
    """Execute a statement that takes many rows; returns what it finds. Raises sqlite3.Error."""
    found: Rows = []
    for at in range(0, len(rows), ROWS_AT_ONCE):
        some = rows[at : at + ROWS_AT_ONCE]
        flat = tuple(chain.from_iterable(some))
        found += db.execute(_many(head, tail, len(some[0]), len(some)), flat)
    return found


@cache
def _many(head: str, tail: str, columns: int, rows: int) -> str:
    """A statement that takes many rows at once."""
    one = "(" + ",".join("?" * columns) + ")"
    return head + ",".join([one] * rows) + tail
