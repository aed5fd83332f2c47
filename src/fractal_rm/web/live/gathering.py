"""Gathers the changes of runs between two messages."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fractal_rm.domain.facts import (
    Accepted,
    AnyFact,
    CancelRequested,
    Dead,
    Discarded,
    Offered,
    Parked,
    Released,
    Settled,
)
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import TROUBLE_STATES, State
from fractal_rm.engine.ports import WrittenFact

# How many runs of one message are shown, in trouble and others. More runs are only counted.
MAX_SHOWN = 250
MAX_REASON = 200  # characters of a reason
# `Settled` is missing: every run has one, and `Gathering.count` takes less time. `Placed` does not
# change the state of a run.
KINDS = frozenset({Accepted, Offered, Parked, Released, CancelRequested, Dead, Discarded})


class RunChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run whose state has changed. ``at_ms`` is the wall time of its last fact."""

    run: str
    flow: str | None
    state: State
    at_ms: int
    accepted_ms: int
    reason: str = ""
    node: str | None = None


class FlowChange(msgspec.Struct, frozen=True, omit_defaults=True):
    """How many runs of a flow were accepted, and ended by state, since the message before.

    ``flow`` is None for dead letters.
    """

    flow: str | None
    at_ms: int
    accepted: int = 0
    ended: dict[str, int] = {}


class Gathered(msgspec.Struct):
    """The changes since the last message. ``hidden``: how many runs are counted only."""

    trouble: dict[str, tuple[Run, int]] = {}
    others: dict[str, tuple[Run, int]] = {}
    hidden: int = 0
    accepted: dict[str, int] = {}
    ended: dict[tuple[str, State], int] = {}

    def run_changes(self) -> list[RunChange]:
        """The runs that have changed, in the order of their changes."""
        both = [*self.trouble.values(), *self.others.values()]
        both.sort(key=lambda each: each[1])
        return [_change(run, at_ms) for run, at_ms in both]

    def flow_changes(self, at_ms: int) -> list[FlowChange]:
        """The flows with accepted or ended runs."""
        ended: dict[str, dict[str, int]] = {flow: {} for flow in self.accepted}
        for (flow, state), count in self.ended.items():
            ended.setdefault(flow, {})[state.text] = count
        return [
            FlowChange(flow or None, at_ms, self.accepted.get(flow, 0), states)
            for flow, states in ended.items()
        ]


def _change(run: Run, at_ms: int) -> RunChange:
    return RunChange(
        run.id, run.flow.id or None, run.state, at_ms, run.accepted_ms, run.reason[:MAX_REASON],
        run.node,
    )  # fmt: skip


class Gathering:
    """Port `Observer`, and a function for `Counting.add`.

    The main path calls both. Each fact is sorted in at once: a run that was kept for later would
    take more time, as it is not in the caches of the CPU any more.
    """

    kinds = KINDS

    def __init__(self) -> None:
        self._now = Gathered()

    def written(self, run: Run, fact: AnyFact, at_ms: int) -> None:
        """Gather a change of a run, except a `Settled`."""
        kind = type(fact)
        if kind is Accepted:
            accepted, flow_id = self._now.accepted, run.flow.id
            accepted[flow_id] = accepted.get(flow_id, 0) + 1
        elif kind is Dead:
            ended, key = self._now.ended, (run.flow.id, run.state)
            ended[key] = ended.get(key, 0) + 1
        self._show(run, at_ms)

    def count(self, facts: Sequence[WrittenFact]) -> None:
        """Gather each `Settled`; see `Counting.facts`."""
        ended = self._now.ended
        for run, (at_ms, fact) in facts:
            if type(fact) is Settled:
                key = run.flow.id, run.state
                ended[key] = ended.get(key, 0) + 1
                self._show(run, at_ms)

    def take(self) -> Gathered:
        """The changes since the last call."""
        taken, self._now = self._now, Gathered()
        return taken

    def _show(self, run: Run, at_ms: int) -> None:
        """Show a run, or count it only."""
        now = self._now
        shown = now.trouble if run.state in TROUBLE_STATES else now.others
        if len(shown) < MAX_SHOWN or run.id in shown:
            shown[run.id] = run, at_ms
            if shown is now.trouble:
                _ = now.others.pop(run.id, None)
        else:
            now.hidden += 1
