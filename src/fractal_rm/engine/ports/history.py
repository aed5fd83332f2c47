"""The history: the runs of all journals of a node, read-only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import msgspec

from fractal_rm.domain.facts import AnyFact
from fractal_rm.domain.state import State


class RunSummary(msgspec.Struct, frozen=True):
    """One line of a list of runs. Times are milliseconds since 1970, UTC."""

    id: str
    flow: str | None
    state: State
    reason: str
    source: str
    node: str | None
    accepted_ms: int
    settled_ms: int | None
    journal: str


class RunPage(msgspec.Struct, frozen=True):
    """Part of a list of runs. ``unreadable`` describes what is damaged and could not be read."""

    runs: list[RunSummary]
    unreadable: list[str]


class TimedFact(msgspec.Struct, frozen=True):
    """A fact, and the time when it was written: milliseconds since 1970, UTC."""

    at_ms: int
    fact: AnyFact


class RunDetail(msgspec.Struct, frozen=True):
    """A run with its facts. ``unreadable`` says why facts, or values of facts, are missing."""

    summary: RunSummary
    facts: list[TimedFact]
    unreadable: str | None = None


class FlowCounts(msgspec.Struct, frozen=True):
    """The counts of one flow: triggers that became runs, and runs in each state.

    ``received`` is counted from the facts and ``states`` from the runs; after damage these counts
    may differ. ``duplicates`` counts repeated triggers, which were answered with an existing run.
    ``maybe_twice`` counts runs that another node may have executed before they were executed here.
    """

    flow: str | None
    received: int
    states: Mapping[State, int]
    duplicates: int
    maybe_twice: int = 0


class History(Protocol):
    """Reads all journals of a node's state folder. Calls block while they read from the disk."""

    def page(
        self,
        *,
        state: State | None = None,
        flow: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> RunPage:
        """A page of runs, newest first. ``before``: the last run id of the previous page."""
        ...

    def run(self, run_id: str) -> RunDetail | None:
        """One run, or None if no journal has it."""
        ...

    def flow_counts(self) -> list[FlowCounts]:
        """The counts of every flow, over all journals of the node."""
        ...
