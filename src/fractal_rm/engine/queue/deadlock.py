"""Detect deadlocks of LIMIT: runs that hold permits wait for each other's permits.

A RUN step may wait for a permit under the LIMIT of the flow that it runs, while its own run and the
runs above it hold permits. `PermitHolders` counts such runs by flow, so that a check takes time for
each flow, and not for each of thousands of steps.
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
    """The runs that hold permits while one of their steps, or of a run below, waits for one."""

    def __init__(self) -> None:
        # By run id: the awaited flows, and how many steps of the run wait for each of them.
        self._awaited: dict[str, Counter[str]] = {}
        # By flow id: the sets of awaited flows, and how many runs of the flow have each set.
        self._awaited_sets: dict[str, Counter[frozenset[str]]] = {}

    def __len__(self) -> int:
        """The number of entries, by run and by flow."""
        return len(self._awaited) + len(self._awaited_sets)

    def begin_wait(self, runs: Iterable[Run], flow: str) -> None:
        """Add a step that waits for a permit of ``flow``. ``runs``: its run, and the runs above."""
        for run in runs:
            self._count(run, flow, 1)

    def end_wait(self, runs: Iterable[Run], flow: str) -> None:
        """Remove a step that got its permit, or no longer waits. ``runs``: as in `begin_wait`."""
        for run in runs:
            self._count(run, flow, -1)

    def _count(self, run: Run, flow: str, change: int) -> None:
        awaited: Counter[str] = self._awaited.pop(run.id, Counter())
        sets = self._awaited_sets.setdefault(run.flow.id, Counter())
        previous_set = frozenset(awaited)
        _add(awaited, flow, change)
        if previous_set:
            _add(sets, previous_set, -1)
        if awaited:
            _add(sets, frozenset(awaited), 1)
            self._awaited[run.id] = awaited
        if not sets:
            del self._awaited_sets[run.flow.id]

    def is_deadlocked(
        self, flow: str, awaited_flows: Iterable[str], is_full: Callable[[str, int], bool]
    ) -> bool:
        """Whether no permit of ``flow`` can ever become free.

        A flow is stuck if each of its permits is held by a run that waits for a stuck flow.
        ``is_full(flow, count)`` returns whether ``count`` runs hold all permits of the flow. The
        search first assumes that all flows in ``awaited_flows`` are stuck. It removes the flows
        that are not stuck, until all remaining flows are stuck.
        """
        stuck = set(awaited_flows)
        while flow in stuck:
            still_stuck = {
                each for each in stuck if is_full(each, self._count_waiting(each, stuck))
            }
            if len(still_stuck) == len(stuck):
                return True
            stuck = still_stuck
        return False

    def _count_waiting(self, flow: str, stuck: set[str]) -> int:
        """The number of runs of a flow that wait for a stuck flow."""
        sets: Counter[frozenset[str]] = self._awaited_sets.get(flow, Counter())
        return sum(count for awaited, count in sets.items() if not awaited.isdisjoint(stuck))


def _add(counter: Counter[Key], key: Key, change: int) -> None:
    counter[key] += change
    if not counter[key]:
        del counter[key]
