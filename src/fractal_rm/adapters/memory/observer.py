"""An observer that records ended runs."""

from __future__ import annotations

from collections.abc import Callable

from fractal_rm.domain.facts import AnyFact, Dead, Settled
from fractal_rm.domain.run import Run


class SettledRuns:
    """Port `Observer`. Records the runs that have ended, and their durations by run id."""

    kinds: frozenset[type[AnyFact]] = frozenset({Settled, Dead})

    def __init__(self, steady_ms: Callable[[], int]) -> None:
        self.settled: list[Run] = []
        self.took_ms: dict[str, int] = {}
        self._steady_ms = steady_ms

    def written(self, run: Run, fact: AnyFact, at_ms: int) -> None:  # noqa: ARG002
        """Record a run that ended."""
        self.settled.append(run)
        self.took_ms[run.id] = self._steady_ms() - run.steady_ms
