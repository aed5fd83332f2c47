"""The calls to components that a run has recorded: how long each took, and what was answered."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from fractal_rm.domain.facts import AnyFact, ElementFinished, Finished, StepFailed
from fractal_rm.domain.flow import Call, Flow


class SeenCall(msgspec.Struct, frozen=True):
    """One call that ended, at ``at_ms`` (milliseconds since 1970).

    ``took_ms`` and ``status`` are None if they are not known. ``reason``: why it failed; empty: it
    succeeded. ``is_retried``: it failed, and was to be made again.
    """

    at_ms: int
    step: int
    component: str
    endpoint: str
    took_ms: float | None
    status: int | None
    reason: str = ""
    is_retried: bool = False


def calls_of(flow: Flow, facts: Iterable[tuple[int, AnyFact]]) -> list[SeenCall]:
    """The calls in the facts of a run of ``flow``, in order. Each fact has its time."""
    calls = {step.number: step for step in flow.steps if isinstance(step, Call)}
    in_parts = {
        number for number, step in calls.items() if step.options and step.options.foreach
    }  # the result of the step is that of all its elements
    return [
        call
        for at_ms, fact in facts
        for call in _call(at_ms, fact, calls.get(getattr(fact, "step", 0)), in_parts)
    ]


def _call(at_ms: int, fact: AnyFact, step: Call | None, in_parts: set[int]) -> Iterable[SeenCall]:
    if step is None:
        return
    name, endpoint = step.component, step.endpoint
    if isinstance(fact, StepFailed):
        answer = fact.answer
        status = answer.status if isinstance(answer, msgspec.Struct) else None
        yield SeenCall(at_ms, step.number, name, endpoint, None, status, fact.reason,
                       fact.retry_at is not msgspec.UNSET)  # fmt: skip
    elif isinstance(fact, ElementFinished) or (
        isinstance(fact, Finished) and fact.status and step.number not in in_parts
    ):
        yield SeenCall(at_ms, step.number, name, endpoint, fact.took_ms, fact.status)
