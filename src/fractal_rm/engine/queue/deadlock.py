"""Detect deadlocks of LIMIT: runs that hold all permits of a flow and wait for such permits.

A RUN step may wait for a permit under the LIMIT of the flow that it runs, while its own run and the
runs above it hold permits. The counts here are updated whenever a step begins or stops to wait, so
that a check goes over flows, not over thousands of steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.domain.run import Run

Key = TypeVar("Key", bound=Hashable)


class Deadlock(CannotEvaluate):
    """A permit that would never become free."""

    code = "deadlock"


class PermitHolders:
    """The runs that hold a permit and cannot end before a step in them gets a permit.

    ``_flows`` has, by id of the run, the flows that its steps wait for, with the number of steps.
    ``_alike`` has, by id of the flow, how many of its runs wait for the same set of flows.
    """

    def __init__(self) -> None:
        self._flows: dict[str, Counter[str]] = {}  # by run, which flows its steps wait for
        self._alike: dict[str, Counter[frozenset[str]]] = {}  # by flow, how many runs for the same

    def __len__(self) -> int:
        """How many entries are kept, by run and by flow."""
        return len(self._flows) + len(self._alike)

    def begin_wait(self, runs: Iterable[Run], flow: str) -> None:
        """A step begins to wait for a permit of ``flow``. ``runs``: its run and those above it."""
        for run in runs:
            self._count(run, flow, 1)

    def end_wait(self, runs: Iterable[Run], flow: str) -> None:
        """A step in these runs has got its permit, or stops to wait."""
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

        A flow is stuck where every one of its permits is held by a run that waits for a stuck flow;
        ``is_full(flow, count)`` tells whether ``count`` runs hold all of its permits. The search
        begins with all flows in ``waited_for`` and removes flows that are not stuck until none is
        left to remove.
        """
        stuck = set(waited_for)
        while flow in stuck:
            still = {each for each in stuck if is_full(each, self._cannot_end(each, stuck))}
            if len(still) == len(stuck):
                return True
            stuck = still
        return False

    def _cannot_end(self, flow: str, stuck: set[str]) -> int:
        alike: Counter[frozenset[str]] = self._alike.get(flow, Counter())
        return sum(count for flows, count in alike.items() if not flows.isdisjoint(stuck))


def _add(counter: Counter[Key], key: Key, by: int) -> None:
    counter[key] += by
    if not counter[key]:
        del counter[key]
