"""The history: what is known of runs that began in any process. Read by anybody."""

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
    """Part of a list of runs, and what is damaged so that it could not be looked at."""

    runs: list[RunSummary]
    unreadable: list[str]


class TimedFact(msgspec.Struct, frozen=True):
    """A fact and when it was written."""

    at_ms: int
    fact: AnyFact


class RunDetail(msgspec.Struct, frozen=True):
    """A run with all its facts; ``unreadable`` says why some are not there, of one damaged."""

    summary: RunSummary
    facts: list[TimedFact]
    unreadable: str | None = None


class Ledger(msgspec.Struct, frozen=True):
    """Of one flow: how many triggers became runs, and in which state how many of those stand.

    ``received`` is counted from the facts and ``states`` from the runs, so that they can differ.
    ``duplicates`` came again and were answered with the run that they repeat. ``maybe_twice`` ran
    here after another node had been asked that may have executed them as well.
    """

    flow: str | None
    received: int
    states: Mapping[State, int]
    duplicates: int
    maybe_twice: int = 0


class History(Protocol):
    """All journals of a node's state folder, read-only. Calls block for a disk read."""

    def page(
        self,
        *,
        state: State | None = None,
        flow: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> RunPage:
        """The newest runs first; ``before`` is the id of the last run of the page before."""
        ...

    def run(self, run_id: str) -> RunDetail | None:
        """One run, or None."""
        ...

    def ledger(self) -> list[Ledger]:
        """The accounts of every flow, over all journals of the node."""
        ...
