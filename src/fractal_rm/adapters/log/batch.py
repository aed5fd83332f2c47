"""What is written together: the records of one frame, and what the history is told of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from fractal_rm.adapters.log import records
from fractal_rm.adapters.log.stories import Beginning, Stories, Story
from fractal_rm.domain.facts import Accepted, AnyFact, Dead, Settled, parent_of
from fractal_rm.domain.flow import Flow, flow_version
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import Entry, Prior

Behind = tuple[Run, tuple[int, AnyFact]]  # a fact that its run has followed, behind its moment
Age = Callable[[], int]  # the clock by which history ages, milliseconds
ENDS = frozenset({Settled, Dead})
# So little the wall clock and that of history may stand apart, and count as one.
SAME_MS = 60_000


class Facts:
    """Facts of open runs. ``records`` are what the log says."""

    def __init__(self, facts: Sequence[Behind], age: Age) -> None:
        self._facts = facts
        self._ends: list[tuple[str, int, int]] = []
        self.records: list[Any] = [("fact", run.id, timed) for run, timed in facts]
        for at, (run, timed) in enumerate(facts):
            if type(timed[1]) in ENDS:
                ahead_ms = _ahead_of(timed[0], age())
                self.records[at] = ("end", run.id, timed, ahead_ms)
                self._ends.append((run.id, timed[0], ahead_ms))

    def tell(self, stories: Stories) -> None:
        """They stand in the log: they are on their way into the history."""
        stories.go_on(self._facts)
        for end in self._ends:
            stories.end(*end)


class Beginnings:
    """New runs, and triggers that came again."""

    def __init__(self, age: Age) -> None:
        self._age = age
        self._begun = Stories()
        self._again: list[str] = []
        self.records: list[Any] = []

    def prior(self, entry: Entry) -> Prior | None:
        """The run that began in here with the key of an entry, or else its id."""
        return self._begun.prior(entry)

    def add_flow(self, flow: Flow) -> None:
        """A definition that runs begin with from here on."""
        version, body = flow_version(flow), records.encode(flow)
        self._begun.flows[version] = body
        self.records.append(("flow", version, msgspec.Raw(body)))

    def begin(self, entry: Entry) -> None:
        """A new run, or a dead letter."""
        at_ms, first = entry.at_ms, entry.facts[0]
        facts = [(at_ms, fact) for fact in entry.facts]
        settled_ms = at_ms if entry.state.final else None
        ahead_ms = 0 if settled_ms is None else _ahead_of(settled_ms, self._age())
        flow = entry.flow.id if entry.flow else None
        self._begun.begin(
            Story(entry.run_id, facts, entry.state, entry.reason, None, settled_ms, ahead_ms),
            beginning_of(first, flow, at_ms, entry.key, entry.digest, entry.key_until_ms),
        )
        self.records.append(
            ("run", entry.run_id, flow, entry.key, entry.digest, entry.key_until_ms, facts,
             ahead_ms)
        )  # fmt: skip

    def repeat(self, run_id: str) -> None:
        """The trigger of a run has come again."""
        self._again.append(run_id)
        self.records.append(("again", run_id))

    def tell(self, stories: Stories) -> None:
        """They stand in the log: they are on their way into the history."""
        stories.take_over(self._begun)
        for run_id in self._again:
            stories.repeat(run_id)


def beginning_of(
    first: AnyFact, flow: str | None, at_ms: int, key: str | None, digest: str, key_until_ms: int
) -> Beginning:
    """What the history needs to know of a run with this first fact."""
    version = first.version if isinstance(first, Accepted) else ""
    source = getattr(first, "source", "")
    return Beginning(
        flow, version, source, at_ms, key, digest, key_until_ms, parent_of(first)
    )  # fmt: skip


def _ahead_of(ended_ms: int, age_ms: int) -> int:
    """How far the age of history is ahead of the wall clock: for days, a minute is nothing.

    So it is 0, which takes no room, as long as nobody sets the wall clock.
    """
    ahead_ms = age_ms - ended_ms
    return ahead_ms if abs(ahead_ms) >= SAME_MS else 0
