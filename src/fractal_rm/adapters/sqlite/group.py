"""A group: what one transaction writes, and the rows that it becomes."""

from __future__ import annotations

from copy import copy
from itertools import chain
from typing import Any

import msgspec

from fractal_rm.adapters.sqlite.chain import Page, encode_page, link
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.run import AnyFact, State, next_state
from fractal_rm.engine.ports import Entry, Prior


class Fact(msgspec.Struct, frozen=True):
    """A fact of an open run, to be written."""

    run_id: str
    fact: AnyFact
    at_ms: int


class Group(msgspec.Struct):
    """What one transaction writes, and the questions that are answered after it.

    ``probe`` writes something in any case: the disk was full.
    """

    entries: list[Entry] = []
    facts: list[Fact] = []
    finds: list[str] = []
    latest_ms: int = 0
    probe: bool = False


class Answers(msgspec.Struct):
    """By position in the group: entries whose key was known, and keys that were asked for."""

    known: dict[int, Prior]
    found: list[Prior | None]


class Row(msgspec.Struct):
    """A run as its row says, kept for every open run."""

    no: int
    state: State
    reason: str
    node: str | None
    settled_ms: int | None
    pages: int
    sum: bytes

    def change(self, fact: AnyFact, at_ms: int) -> None:
        """Follow a fact."""
        self.state = next_state(self.state, fact)
        self.reason = getattr(fact, "reason", "") or self.reason
        self.node = getattr(fact, "node", self.node)
        if self.state.final:
            self.settled_ms = at_ms

    def add_page(self, page: Page) -> tuple[int, int, bytes, bytes]:
        """Close a page; returns its row."""
        body = encode_page(page)
        self.pages += 1
        self.sum = link(self.sum, self.pages, body)
        return self.no, self.pages, body, self.sum


class Writing:
    """The rows of one transaction, apart from what is known until it is durable."""

    def __init__(self, known: dict[str, Row], next_no: int) -> None:
        self._known = known
        self.next_no = next_no
        self.new: dict[str, Row] = {}
        self.changed: dict[str, Row] = {}
        self.keys: dict[str, Prior] = {}
        self.key_rows: list[tuple[Any, ...]] = []
        self.page_rows: list[tuple[Any, ...]] = []
        self.flows: list[Flow] = []
        self.duplicates: list[str] = []
        self._pages: dict[str, Page] = {}  # of the changed runs, not closed yet
        self._about: list[tuple[str | None, str, int]] = []  # flow, source, accepted_ms of the new

    def add(self, entry: Entry) -> None:
        """A new run."""
        row = Row(self.next_no, State.NEW, "", None, None, 0, entry.run_id.encode())
        self.next_no += 1
        for fact in entry.facts:
            row.change(fact, entry.at_ms)
        self.page_rows.append(row.add_page([(entry.at_ms, fact) for fact in entry.facts]))
        self.new[entry.run_id] = row
        source = getattr(entry.facts[0], "source", "")
        flow = entry.flow
        self._about.append((flow.id if flow else None, source, entry.at_ms))
        if flow is not None and not any(flow is other for other in self.flows):
            self.flows.append(flow)
        if entry.key is not None:
            self.keys[entry.key] = Prior(entry.run_id, entry.digest, row.state)
            self.key_rows.append((entry.key, row.no, entry.digest, entry.key_until_ms))

    def append(self, item: Fact) -> None:
        """A fact of an open run."""
        row = self.changed.get(item.run_id)
        if row is None:
            row = self.changed[item.run_id] = copy(self._known[item.run_id])
            self._pages[item.run_id] = []
        row.change(item.fact, item.at_ms)
        self._pages[item.run_id].append((item.at_ms, item.fact))

    def close_pages(self) -> None:
        """Call it last: what happened to a run is one page of it."""
        for run_id, page in self._pages.items():
            self.page_rows.append(self.changed[run_id].add_page(page))

    def new_rows(self) -> list[tuple[Any, ...]]:
        """Rows for INSERT_RUNS."""
        return [
            (r.no, run_id, flow, r.state.value, r.reason, source, r.node, at_ms, r.settled_ms,
             r.pages, r.sum)
            for (run_id, r), (flow, source, at_ms) in zip(
                self.new.items(), self._about, strict=True)
        ]  # fmt: skip

    def changed_rows(self) -> list[tuple[Any, ...]]:
        """Rows for UPDATE_RUNS."""
        return [
            (r.no, r.state.value, r.reason, r.node, r.settled_ms, r.pages, r.sum)
            for r in self.changed.values()
        ]

    def settled(self) -> int:
        """How many runs end with this transaction."""
        rows = chain(self.new.values(), self.changed.values())
        return sum(row.settled_ms is not None for row in rows)
