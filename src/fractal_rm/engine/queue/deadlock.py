"""Whether a place can still become free: which runs that have one carry steps that wait for one.

Kept up to date with each step that begins or ceases to wait, so that thousands that wait cost no
more than a few: what is looked through are flows, not steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from fractal_rm.domain.errors import CannotEvaluate
from fractal_rm.domain.run import Run

Key = TypeVar("Key", bound=Hashable)


class Deadlock(CannotEvaluate):
    """A place that would never become free."""

    code = "deadlock"


class Carriers:
    """The runs that have a place and cannot end before a step that they carry has one."""

    def __init__(self) -> None:
        self._flows: dict[str, Counter[str]] = {}  # by run, which flows its steps wait for
        self._alike: dict[str, Counter[frozenset[str]]] = {}  # by flow, how many runs for the same

    def __len__(self) -> int:
        """How many entries are kept, by run and by flow."""
        return len(self._flows) + len(self._alike)

    def wait(self, runs: Iterable[Run], flow: str) -> None:
        """A step that these carry begins to wait for a place of ``flow``."""
        for run in runs:
            self._count(run, flow, 1)

    def cease(self, runs: Iterable[Run], flow: str) -> None:
        """A step that these carry has its place, or waits no longer."""
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

    def are_stuck(
        self, flow: str, waited_for: Iterable[str], is_full: Callable[[str, int], bool]
    ) -> bool:
        """Whether no place of ``flow`` can ever become free.

        A flow is stuck where each of its places is taken by a run that carries a step that waits
        for a stuck flow: ``is_full`` is told how many such runs it has. Begins with all flows that
        are waited for, and leaves out those that are not stuck, until nothing changes.
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
