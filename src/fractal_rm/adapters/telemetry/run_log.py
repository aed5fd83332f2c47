"""Logs dead letters and runs that did not succeed; at level debug, every fact of every run."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from msgspec import UNSET

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


_SHOWN = (
    "step", "attempt", "part", "element", "status", "took_ms", "node", "epoch", "position", "state",
    "code", "cause", "source", "final",
)  # fmt: skip


class RunDetails:
    """Port `Observer`. Logs each fact without its data: no payload, result, header or text."""

    kinds: frozenset[type[AnyFact]] = frozenset(get_args(AnyFact))

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def written(self, run: Run, fact: AnyFact, at_ms: int) -> None:  # noqa: ARG002 - see the port
        """Log a fact by its name, with its short fields."""
        values = {name: getattr(fact, name, UNSET) for name in _SHOWN}
        fields = {
            name: getattr(value, "text", value)
            for name, value in values.items()
            if value is not UNSET and value is not None
        }
        self._telemetry.detail(
            "run_fact",
            run=run.id,
            flow=run.flow.id,
            fact=type(fact).__struct_config__.tag,
            **fields,
        )
