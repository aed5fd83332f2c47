"""Turns the facts of an ended run into spans: plain values, without OpenTelemetry.

The names of attributes are those of the semantic conventions 1.38 for HTTP and messaging. Payloads,
results, headers and URLs with values are never part of a span.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Union

import msgspec
from msgspec import UNSET

from fractal_rm.config.model import Config
from fractal_rm.domain.facts import (
    AnyFact,
    ElementFinished,
    Finished,
    Offered,
    Placed,
    RequestStarted,
    Settled,
    StepFailed,
    StepUndone,
    request_name,
    undo_request_name,
)
from fractal_rm.domain.flow import Call, SubFlow
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.domain.trace import OFFER, PLACE, context_of, span_id

SCHEMA_URL = "https://opentelemetry.io/schemas/1.38.0"
TimedFacts = Sequence[tuple[int, AnyFact]]  # (time in ms since 1970, fact)
Attribute = Union[str, int, bool]
_GOOD_STATES = frozenset({State.SUCCEEDED, State.HANDED_OFF})
_OF_STEPS = (Finished, ElementFinished, StepFailed, StepUndone)


class Kind(Enum):
    """The kinds of spans, with the numbers of OTLP less one."""

    INTERNAL = 0
    SERVER = 1
    CLIENT = 2
    PRODUCER = 3
    CONSUMER = 4


class Span(msgspec.Struct, frozen=True):
    """One span. Ids are hexadecimal; ``parent`` is empty for the first span of a trace.

    Times are in milliseconds since 1970. ``error`` is empty if nothing failed.
    """

    name: str
    kind: Kind
    trace: str
    id: str
    parent: str
    start_ms: float
    end_ms: float
    attributes: Mapping[str, Attribute]
    error: str = ""
    is_sampled: bool = True


def spans_of(
    run: Run, facts: TimedFacts, ended_ms: int, config: Config, sample: float
) -> list[Span]:
    """The spans of an ended run: the run itself first, then what happened in it.

    ``facts`` are those that this process has written since the run was accepted, or since the start
    of the process, in order.
    """
    spans = _Spans(run, config, sample)
    spans.add_run(ended_ms)
    for at_ms, fact in facts:
        spans.add_fact(at_ms, fact)
    return spans.all


class _Spans:
    """Makes the spans of one run from its facts, in order."""

    def __init__(self, run: Run, config: Config, sample: float) -> None:
        self.all: list[Span] = []
        self._run = run
        self._config = config
        self._context = context_of(run, sample)
        self._steps = {
            step.number: step for step in run.flow.steps if isinstance(step, (Call, SubFlow))
        }
        self._before_ms = float(run.accepted_ms)  # the time of the fact before
        self._started_ms: dict[str, float] = {}  # when each request began, by its name
        self._attempts: dict[str, int] = {}
        self._offer: tuple[int, Offered] | None = None

    def add_run(self, ended_ms: int) -> None:
        """Add the span of the whole run."""
        run, context = self._run, self._context
        name, kind, attributes = _kind_of_run(run, self._config)
        is_good = run.state in _GOOD_STATES
        error = "" if is_good else run.cause.text if run.cause else run.state.text
        end_ms = max(ended_ms, run.accepted_ms)
        self._add(name, kind, span_id(run), run.accepted_ms, end_ms, attributes, error,
                  parent=context.span)  # fmt: skip

    def add_fact(self, at_ms: int, fact: AnyFact) -> None:
        """Add the span that ends with a fact, if one does."""
        if isinstance(fact, RequestStarted):
            self._started_ms[request_name(fact.step, fact.part)] = at_ms
        elif isinstance(fact, Placed):
            self._end_offer(at_ms, _text(fact.cause))
            place_id = span_id(self._run, PLACE, len(self.all))
            self._add("place", Kind.INTERNAL, place_id, self._before_ms, at_ms, _placement(fact))
        elif isinstance(fact, Offered):
            self._offer = at_ms, fact
        elif isinstance(fact, Settled):
            self._end_offer(at_ms, "" if fact.state is State.HANDED_OFF else _text(fact.cause))
        elif isinstance(fact, _OF_STEPS):
            self._add_attempt(at_ms, fact)
        self._before_ms = max(self._before_ms, at_ms)

    def _add_attempt(self, at_ms: int, fact: Any) -> None:
        """Add the span of one attempt of a request."""
        step, name = self._steps.get(fact.step), _name(fact)
        is_failed = isinstance(fact, StepFailed)
        attempt = fact.attempt if is_failed else self._attempts.get(name, 0) + 1
        self._attempts[name] = attempt
        if step is not None and attempt and not _is_without_request(fact, step):
            before_ms = max(self._before_ms, self._started_ms.get(name, 0.0))
            self._add(
                _step_name(step, fact),
                Kind.INTERNAL if isinstance(step, SubFlow) else Kind.CLIENT,
                span_id(self._run, name, attempt),
                _start_ms(fact, at_ms, before_ms),
                at_ms,
                _attributes(step, fact, attempt, self._config),
                _text(fact.cause) if is_failed else "",
            )
        if is_failed and fact.retry_at is not UNSET:
            self._started_ms[name] = fact.retry_at.wall_ms

    def _end_offer(self, at_ms: int, error: str) -> None:
        """Add the span of the offer that has ended, if there is one."""
        if self._offer is None:
            return
        (offered_ms, fact), self._offer = self._offer, None
        attributes: dict[str, Attribute] = {
            "messaging.system": "fractal",
            "messaging.operation.type": "send",
            "messaging.operation.name": "offer",
            "messaging.destination.name": fact.node,
        }
        offer_id = span_id(self._run, OFFER, fact.epoch)
        self._add(
            f"offer {fact.node}", Kind.PRODUCER, offer_id, offered_ms, at_ms, attributes, error
        )

    def _add(
        self, name: str, kind: Kind, own_id: str, start_ms: float, end_ms: float,
        attributes: dict[str, Attribute], error: str = "", parent: str | None = None,
    ) -> None:  # fmt: skip
        if error:
            attributes["error.type"] = error
        context = self._context
        self.all.append(
            Span(
                name, kind, context.trace, own_id,
                span_id(self._run) if parent is None else parent,
                start_ms, max(start_ms, end_ms), attributes, error, context.is_sampled,
            )
        )  # fmt: skip


# --- the run ------------------------------------------------------------------------------------


def _kind_of_run(run: Run, config: Config) -> tuple[str, Kind, dict[str, Attribute]]:
    """Name, kind and attributes of the span of a run. They depend on how its trigger arrived."""
    source, flow = run.accepted.source, run.flow
    attributes: dict[str, Attribute] = {
        "fractal.run.id": run.id,
        "fractal.flow.id": flow.id,
        "fractal.run.state": run.state.text,
        "fractal.run.source": source,
    }
    if source == "rest":
        return "POST", Kind.SERVER, {**attributes, "http.request.method": "POST"}
    if source not in ("mqtt", "peer"):
        return f"run {flow.id}", Kind.INTERNAL, attributes
    if source == "mqtt":
        topics = () if flow.starts is UNSET else flow.starts.topics
        system, destination = "mqtt", topics[0] if len(topics) == 1 else config.mqtt.topic
    else:
        system, destination = "fractal", "hand-off"
    attributes |= {
        "messaging.system": system,
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": destination,
    }
    return f"process {destination}", Kind.CONSUMER, attributes


def _placement(fact: Placed) -> dict[str, Attribute]:
    attributes: dict[str, Attribute] = {"fractal.placement.cause": _text(fact.cause)}
    if fact.node is not None:
        attributes["fractal.placement.node"] = fact.node
    return attributes


# --- steps --------------------------------------------------------------------------------------


def _name(fact: Any) -> str:
    """The name of the request of a fact; see `request_name`."""
    if isinstance(fact, StepUndone):
        return undo_request_name(fact.step)
    if isinstance(fact, ElementFinished):
        return f"{fact.step}.{fact.element}"
    return request_name(fact.step, getattr(fact, "part", UNSET))


def _is_without_request(fact: Any, step: Call | SubFlow) -> bool:
    """Whether a result came without a request, such as that of a skipped step or of a FOREACH."""
    return not isinstance(fact, StepFailed) and isinstance(step, Call) and not fact.took_ms


def _start_ms(fact: Any, at_ms: int, before_ms: float) -> float:
    """When a request began. That of a failed one is not recorded: it is after ``before_ms``."""
    took_ms = getattr(fact, "took_ms", 0)
    return at_ms - took_ms if took_ms else min(before_ms, at_ms)


def _step_name(step: Call | SubFlow, fact: Any) -> str:
    if isinstance(step, SubFlow):
        return f"run {step.flow}"
    return f"{_method(step, fact)} {step.component}"


def _method(step: Call, fact: Any) -> str:
    return "POST" if _is_undo(fact) else step.method.value


def _is_undo(fact: Any) -> bool:
    return isinstance(fact, StepUndone) or _name(fact).startswith("undo.")


def _attributes(
    step: Call | SubFlow, fact: Any, attempt: int, config: Config
) -> dict[str, Attribute]:
    attributes: dict[str, Attribute] = {"fractal.step": fact.step}
    if isinstance(step, Call):
        attributes |= {
            "http.request.method": _method(step, fact),
            "fractal.component": step.component,
            "fractal.endpoint": step.endpoint,
        }
        component = config.components.get(step.component)
        endpoint = component and component.endpoints.get(step.endpoint)
        if endpoint:
            attributes["server.address"] = endpoint.get.origin.host
            attributes["server.port"] = endpoint.get.origin.port
        if attempt > 1:
            attributes["http.request.resend_count"] = attempt - 1
        if _is_undo(fact):
            attributes["fractal.undo"] = True
        if isinstance(fact, ElementFinished):
            attributes["fractal.element"] = fact.element
    status = getattr(fact, "status", 0)
    if isinstance(fact, StepFailed):
        attributes["error.type"] = _text(fact.cause)
        status = fact.answer.status if fact.answer is not UNSET else 0
    if status:
        attributes["http.response.status_code"] = status
    return attributes


def _text(cause: object) -> str:
    return getattr(cause, "text", "other")
