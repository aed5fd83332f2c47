"""The history: the runs of all journals of a node, read-only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.facts import AnyFact
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import State


class WrongCursor(FractalError):
    """A cursor is not one that the same question has returned."""

    code = "wrong-cursor"


class Handled(msgspec.Struct, frozen=True):
    """An operator has repeated or discarded a run.

    ``by_run``: the run that repeats it; None: it was discarded. ``at_ms``: when, in milliseconds
    since 1970. ``actor``: the operator, if known.
    """

    by_run: str | None
    at_ms: int
    actor: str | None = None


class RunSummary(msgspec.Struct, frozen=True):
    """One line of a list of runs. Times are milliseconds since 1970, UTC.

    ``component`` (the one called last) and ``cause`` are those of a run in trouble. ``parent`` is
    the run whose RUN step started this run. ``replays`` is the run that this run repeats.
    ``handled``: what an operator did with the run last, if anything. `History.run` and lists of
    `History.page` leave ``replays``, ``handled``, ``component`` and ``cause`` out.
    """

    id: str
    flow: str | None
    state: State
    reason: str
    source: str
    node: str | None
    accepted_ms: int
    settled_ms: int | None
    journal: str
    parent: str | None = None
    component: str | None = None
    cause: str | None = None
    replays: str | None = None
    handled: Handled | None = None


class RunPage(msgspec.Struct, frozen=True):
    """Part of a list of runs. ``unreadable`` describes what is damaged and could not be read."""

    runs: list[RunSummary]
    unreadable: list[str]


class Found(msgspec.Struct, frozen=True):
    """Runs that were found, the newest first (or the oldest first, as asked).

    ``next`` is the cursor with which the search goes on; None: the search has ended, and there are
    no other runs. ``searched_to_ms``: the time for the question ended before enough runs were
    found. The runs accepted between this time and now (or, the oldest first, up to this time) were
    searched; milliseconds since 1970. ``unreadable`` describes what is damaged.
    """

    runs: list[RunSummary]
    next: str | None = None
    searched_to_ms: int | None = None
    unreadable: list[str] = []


class Count(msgspec.Struct, frozen=True):
    """A number of runs. If ``is_exact`` is false, there may be more: counting was ended.

    ``searched_to_ms`` is as in `Found`, and ``unreadable`` too.
    """

    number: int
    is_exact: bool = True
    searched_to_ms: int | None = None
    unreadable: list[str] = []


class FailureGroup(msgspec.Struct, frozen=True):
    """Runs in trouble of the same kind: the same state, flow, component, cause and shape.

    ``shape`` is the reason without its numbers. ``first_ms`` and ``last_ms`` are the wall times of
    acceptance of the oldest and the newest of the ``count`` runs, and ``newest`` is the id of the
    newest run. ``reason`` is the reason of the newest run.
    """

    state: State
    flow: str | None
    component: str | None
    cause: str | None
    shape: str
    count: int
    first_ms: int
    last_ms: int
    newest: str
    reason: str


class Failures(msgspec.Struct, frozen=True):
    """Groups of failures, the one that occurred last first.

    ``searched_to_ms`` and ``unreadable`` are as in `Found`: older runs are not counted.
    """

    groups: list[FailureGroup]
    searched_to_ms: int | None = None
    unreadable: list[str] = []


class Minute(msgspec.Struct, frozen=True):
    """What happened to the runs of one flow in one minute, or in one hour.

    ``at_ms`` is its beginning, in milliseconds since 1970. ``flow`` is None for dead letters. If
    ``state`` is ``accepted``, ``runs`` is the number of accepted runs. Otherwise it is the number
    of runs that ended with this state, and ``durations`` has their durations from acceptance to the
    end: item n is the number of runs that took less than 2**n ms, and not less than 2**(n-1) ms.
    """

    at_ms: int
    flow: str | None
    state: State
    runs: int
    durations: list[int] = []


class TimedFact(msgspec.Struct, frozen=True):
    """A fact, and the time when it was written: milliseconds since 1970, UTC."""

    at_ms: int
    fact: AnyFact


class RunDetail(msgspec.Struct, frozen=True):
    """A run with its facts. ``unreadable`` says why facts, or values of facts, are missing."""

    summary: RunSummary
    facts: list[TimedFact]
    unreadable: str | None = None


class RunOutline(RunDetail, frozen=True):
    """A run with its facts. Of a large value (over 64 KiB), they have only the beginning, as text.

    ``sizes`` has the sizes of these values in bytes, by the index of the fact.
    """

    sizes: Mapping[int, int] = {}


class FlowCounts(msgspec.Struct, frozen=True):
    """The counts of one flow: triggers that became runs, and runs in each state.

    ``received`` is counted from the facts and ``states`` from the runs; after damage these counts
    may differ. ``duplicates`` counts repeated triggers, which were answered with an existing run.
    ``maybe_twice`` counts runs that another node may have executed before they were executed here.
    ``repeated`` counts runs that repeat another run or a dead letter: an operator asked for them.
    """

    flow: str | None
    received: int
    states: Mapping[State, int]
    duplicates: int
    maybe_twice: int = 0
    repeated: int = 0


EVERY_RUN = RunFilter()


class PastRuns(Protocol):
    """Reads single runs, for actions on runs that have ended. Calls block; see `History`."""

    def run(self, run_id: str) -> RunDetail | None:
        """One run, or None if no journal has it."""
        ...

    def handled(self, run_ids: Sequence[str]) -> dict[str, Handled]:
        """What operators did last with runs, by id. Other runs are missing."""
        ...

    def recorded_flow(self, journal: str, version: str) -> Flow | None:
        """The definition of a flow with which runs of a journal began; None: it is not kept."""
        ...


class History(PastRuns, Protocol):
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

    def find(
        self,
        run_filter: RunFilter = EVERY_RUN,
        *,
        cursor: str | None = None,
        limit: int = 50,
        oldest_first: bool = False,
        within_s: float = 0.1,
    ) -> Found:
        """Find runs. ``cursor`` is `Found.next` of the same question, to go on.

        The search ends after about ``within_s`` seconds, even if it found fewer runs. Following the
        cursors finds each run once; runs accepted meanwhile may be missing. Raises WrongCursor.
        """
        ...

    def count(
        self, run_filter: RunFilter = EVERY_RUN, *, most: int = 100_000, within_s: float = 0.1
    ) -> Count:
        """Count runs, up to ``most``, for about ``within_s`` seconds."""
        ...

    def failures(self, run_filter: RunFilter = EVERY_RUN, *, within_s: float = 0.1) -> Failures:
        """Group the runs in trouble that match a filter by their kind of failure."""
        ...

    def outline(self, run_id: str, *, whole: int | None = None) -> RunOutline | None:
        """One run without the rest of its large values, or None if no journal has it.

        The value of the fact with the index ``whole`` is complete.
        """
        ...

    def children(self, run_id: str) -> list[RunSummary]:
        """The runs that RUN steps of a run started, in order of acceptance."""
        ...

    def replays_of(self, run_id: str) -> list[RunSummary]:
        """The runs that repeat a run, in order of acceptance."""
        ...

    def minutes(
        self, since_ms: int, until_ms: int, *, flow: str | None = None, hours: bool = False
    ) -> list[Minute]:
        """The minutes (or hours) that begin between two times, in order. ``until_ms`` is excluded.

        Minutes are kept for two days, and hours for 60 days. Ask for hours if the time is longer
        than six hours: with 20 flows, a day has 90,000 minutes. Runs that ended before the update
        to this release are not counted.
        """
        ...

    def flow_counts(self) -> list[FlowCounts]:
        """The counts of every flow, over all journals of the node."""
        ...
