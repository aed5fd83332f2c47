"""Logs each dead letter, and the end of each run that did not succeed."""

from __future__ import annotations

from collections.abc import Callable

from fractal_rm.domain.facts import AnyFact, Dead, Settled
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import Telemetry

_GOOD_ENDS = frozenset({State.SUCCEEDED, State.HANDED_OFF})


class RunLog:
    """Port `Observer`. ``steady_ms`` returns the time of the steady clock, in milliseconds."""

    kinds: frozenset[type[AnyFact]] = frozenset({Settled, Dead})

    def __init__(self, telemetry: Telemetry, steady_ms: Callable[[], int]) -> None:
        self._telemetry = telemetry
        self._steady_ms = steady_ms

    def written(self, run: Run, fact: AnyFact, at_ms: int) -> None:  # noqa: ARG002 - see the port
        """Log a dead letter, or the end of a run that neither succeeded nor was handed off."""
        if isinstance(fact, Dead) and fact.source:  # the message did not become a run
            self._telemetry.problem(
                "dead_letter", source=fact.source, code=fact.code, reason=fact.reason
            )
        elif run.state not in _GOOD_ENDS:
            self._telemetry.problem(
                f"run_{run.state.value}",
                run=run.id,
                flow=run.flow.id,
                reason=run.reason,
                took_ms=self._steady_ms() - run.steady_ms,
            )
