"""Detect deadlocks of LIMIT: all holders of a flow's permits wait for each other's permits.

A RUN step may wait for a permit under the LIMIT of the flow that it runs, while its own run and the
runs above it hold permits. The counts are updated whenever a step begins or stops waiting. So
a check takes time for each flow, not for each of thousands of steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.domain.run import Run

Key = TypeVar("Key", bound=Hashable)


class Deadlock(CannotEvaluate):
    """The requested permit would never become free."""

    code = "deadlock"


class PermitHolders:
    """The runs that hold a permit while a step in them, or below them, waits for a permit.

    ``_flows``: by run id, how many of its steps wait for each flow. ``_alike``: by flow id, how
    many of its runs wait for the same set of flows.
    """

    def __init__(self) -> None:
        self._flows: dict[str, Counter[str]] = {}
        self._alike: dict[str, Counter[frozenset[str]]] = {}

    def __len__(self) -> int:
        """The number of entries, by run and by flow."""
        return len(self._flows) + len(self._alike)

    def begin_wait(self, runs: Iterable[Run], flow: str) -> None:
        """Add a step that waits for a permit of ``flow``. ``runs``: its run and the runs above."""
        for run in runs:
            self._count(run, flow, 1)

    def end_wait(self, runs: Iterable[Run], flow: str) -> None:
        """Remove a step that got its permit, or no longer waits. ``runs``: as in `begin_wait`."""
        for run in runs:
            self._count(run, flow, -1)

    def _count(self, run: Run, flow: str, by: int) -> None:
        flows: Counter[str] = self._flows.pop(run.id, Counter())
        alike = self._alike.setdefault(run.flow.id, Counter())
        before = frozenset(flows)
        _add(flows, flow, by)
        if before:
            _add(alike, before, -1)
        if flows:
            _add(alike, frozenset(flows), 1)
            self._flows[run.id] = flows
        if not alike:
            del self._alike[run.flow.id]

    def is_deadlocked(
        self, flow: str, waited_for: Iterable[str], is_full: Callable[[str, int], bool]
    ) -> bool:
        """Whether no permit of ``flow`` can ever become free.

        A flow is stuck if each of its permits is held by a run that waits for a stuck flow.
        ``is_full(flow, count)`` tells whether ``count`` runs hold all of its permits. The search
        assumes that all flows in ``waited_for`` are stuck. It removes those that are not, until all
        remaining flows are stuck.
        """
        stuck = set(waited_for)
        while flow in stuck:
            still_stuck = {each for each in stuck if is_full(each, self._cannot_end(each, stuck))}
            if len(still_stuck) == len(stuck):
                return True
            stuck = still_stuck
        return False

    def _cannot_end(self, flow: str, stuck: set[str]) -> int:
        alike: Counter[frozenset[str]] = self._alike.get(flow, Counter())
        return sum(count for flows, count in alike.items() if not flows.isdisjoint(stuck))


def _add(counter: Counter[Key], key: Key, by: int) -> None:
    counter[key] += by
    if not counter[key]:
        del counter[key]
