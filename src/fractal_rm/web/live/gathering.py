"""Gathers the changes of runs between two messages."""

from __future__ import annotations

from collections import Counter

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

# How many runs of one message are shown, in trouble and others. More runs are only counted.
MAX_SHOWN = 250
MAX_REASON = 200  # characters of a reason
FOLD_AT = 1_024  # the runs of so many facts may be kept in memory although they have ended
# `Placed` is missing: it does not change the state of a run, and every run has one.
KINDS = frozenset({
    Accepted, Offered, Parked, Released, CancelRequested, Settled, Dead, Discarded,
})  # fmt: skip
_ENDS = frozenset({Settled, Dead})


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
    accepted: Counter[str] = msgspec.field(default_factory=Counter)
    ended: Counter[tuple[str, str]] = msgspec.field(default_factory=Counter)

    def run_changes(self) -> list[RunChange]:
        """The runs that have changed, in the order of their changes."""
        both = [*self.trouble.values(), *self.others.values()]
        both.sort(key=lambda each: each[1])
        return [_change(run, at_ms) for run, at_ms in both]

    def flow_changes(self, at_ms: int) -> list[FlowChange]:
        """The flows with accepted or ended runs."""
        ended: dict[str, dict[str, int]] = {flow: {} for flow in self.accepted}
        for (flow, state), count in self.ended.items():
            ended.setdefault(flow, {})[state] = count
        return [
            FlowChange(flow or None, at_ms, self.accepted[flow], states)
            for flow, states in ended.items()
        ]


def _change(run: Run, at_ms: int) -> RunChange:
    return RunChange(
        run.id, run.flow.id or None, run.state, at_ms, run.accepted_ms, run.reason[:MAX_REASON],
        run.node,
    )  # fmt: skip


class Gathering:
    """Port `Observer`. It is called for each fact of a run, so it only keeps the fact.

    At most `FOLD_AT` facts are kept; then they are sorted into the changes of runs and flows.
    """

    kinds = KINDS

    def __init__(self) -> None:
        self._now = Gathered()
        self._written: list[tuple[Run, type[AnyFact], int]] = []
        self._keep = self._written.append

    def written(self, run: Run, fact: AnyFact, at_ms: int) -> None:
        """Keep the change of a run."""
        self._keep((run, type(fact), at_ms))
        if len(self._written) >= FOLD_AT:
            self._fold()

    def take(self) -> Gathered:
        """The changes since the last call."""
        self._fold()
        taken, self._now = self._now, Gathered()
        return taken

    def _fold(self) -> None:
        """Sort the kept facts into the changes of runs and flows."""
        now, written = self._now, self._written
        now.accepted.update(run.flow.id for run, kind, _ in written if kind is Accepted)
        now.ended.update((run.flow.id, run.state.text) for run, kind, _ in written if kind in _ENDS)
        for run, _, at_ms in written:
            shown = now.trouble if run.state in TROUBLE_STATES else now.others
            if len(shown) < MAX_SHOWN or run.id in shown:
                shown[run.id] = run, at_ms
                if shown is now.trouble and run.id in now.others:
                    del now.others[run.id]
            else:
                now.hidden += 1
        written.clear()
