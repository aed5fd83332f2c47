"""A group: what one transaction writes, and the rows that it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from fractal_rm.adapters.sqlite.chain import Page, encode_page, link, start_of
from fractal_rm.adapters.sqlite.schema import PAGE_BITS
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import Entry, Prior

Tail = tuple[int, int, int]  # of an open run: its number, how many pages, the last one's checksum
Rows = list[tuple[Any, ...]]
# Trigger ids, with the moment of each question (`Entry.retention_ms`).
Finds = list[tuple[str, int]]

# So little the wall clock and that of history may stand apart, and count as one.
SAME_MS = 60_000


class Change(msgspec.Struct):
    """What happened to an open run since the last group: the run stands as it does after that."""

    run: Run
    page: Page = []


class Group(msgspec.Struct):
    """What one transaction writes, and the questions that are answered after it.

    ``changes`` is by run id. ``probe`` writes something in any case: the disk was full.
    """

    entries: list[Entry] = []
    changes: dict[str, Change] = {}
    finds: Finds = []
    probe: bool = False

    def keyed(self) -> dict[int, Entry]:
        """The entries with a trigger id, by position."""
        return {at: entry for at, entry in enumerate(self.entries) if entry.key is not None}

    def put_before(self, earlier: Mapping[str, Change]) -> None:
        """Take in the changes of a group that could not be written."""
        for run_id, change in earlier.items():
            later = self.changes.setdefault(run_id, change)
            if later is not change:
                later.page = change.page + later.page


class Writing:
    """The rows of one transaction, apart from what is known until it is durable.

    ``retention_ms`` is now, on the clock by which history ages.
    """

    def __init__(self, open_runs: Mapping[str, Tail], next_no: int, retention_ms: int) -> None:
        self._open = open_runs
        self._retention_ms = retention_ms
        self.next_no = next_no
        self.new_rows: Rows = []
        self.changed_rows: Rows = []
        self.page_rows: Rows = []
        self.key_rows: Rows = []
        self.keys: dict[str, Prior] = {}
        self.known: dict[int, Prior] = {}  # by position: entries that are written already
        self.flows: dict[int, Flow] = {}  # by identity: most runs of a group share one
        self.duplicates: list[str] = []
        self.tails: dict[str, Tail] = {}  # of runs that stay open
        self.ended: list[str] = []

    def add(self, entry: Entry) -> None:
        """A new run."""
        run_id, flow, at_ms, state = entry.run_id, entry.flow, entry.at_ms, entry.state
        start = (self.next_no, 0, start_of(run_id))
        self.next_no += 1
        page = [(at_ms, fact) for fact in entry.facts]
        ended_ms = at_ms if state.final else None
        no, pages, last = self._close(run_id, start, page, ended=state.final)
        self.new_rows.append(
            (no, run_id, flow.id if flow else None, state.text, entry.reason,
             getattr(entry.facts[0], "source", ""), at_ms, ended_ms, pages, last,
             0 if ended_ms is None else self._ahead_of(ended_ms))
        )  # fmt: skip
        if flow is not None:
            self.flows[id(flow)] = flow
        if entry.key is not None:
            self.keys[entry.key] = Prior(run_id, entry.digest, state)
            self.key_rows.append((entry.key, no, entry.digest, entry.key_until_ms))

    def repeats(self, position: int, entry: Entry, known: Mapping[int, Prior]) -> bool:
        """Whether an entry is written already: in the file (``known``), or before it in here."""
        if entry.key is None:
            return False
        prior = self.keys.get(entry.key) or known.get(position)
        if prior is None:
            return False
        self.known[position] = prior
        self.duplicates.append(prior.run_id)
        return True

    def change(self, run_id: str, change: Change) -> None:
        """What happened to an open run, before anything else happens to it."""
        run, page = change.run, change.page
        ended = run.state.final
        no, pages, last = self._close(run_id, self._open[run_id], page, ended=ended)
        settled_ms = page[-1][0] if ended else None
        self.changed_rows.append(
            (no, run.state.text, run.reason, run.node, settled_ms, pages, last,
             0 if settled_ms is None else self._ahead_of(settled_ms))
        )  # fmt: skip

    def _ahead_of(self, ended_ms: int) -> int:
        """How far the age of history is ahead of the wall clock: for days, a minute is nothing.

        So it is 0, which takes no room, as long as nobody sets the wall clock.
        """
        ahead_ms = self._retention_ms - ended_ms
        return ahead_ms if abs(ahead_ms) >= SAME_MS else 0

    def _close(self, run_id: str, tail: Tail, page: Page, *, ended: bool) -> Tail:
        """What one transaction writes of a run is one page of it."""
        no, pages, last = tail
        pages += 1
        body = encode_page(page)
        last = link(last, pages, body)
        self.page_rows.append((no << PAGE_BITS | pages, body, last))
        if ended:
            self.ended.append(run_id)
        else:
            self.tails[run_id] = no, pages, last
        return no, pages, last
