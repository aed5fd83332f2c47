"""Build the request of a call from its flow and the state of its run. Nothing is sent here."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from fractal_rm.config.model import Bounds, Component, Config, Endpoint
from fractal_rm.domain.body import call_body, request_body, undo_body
from fractal_rm.domain.call import Route, with_headers, with_method, with_query
from fractal_rm.domain.condition import is_true
from fractal_rm.domain.evaluate import as_text
from fractal_rm.domain.evaluation_context import EvaluationContext
from fractal_rm.domain.expression import Value
from fractal_rm.domain.facts import undo_request_name
from fractal_rm.domain.flow import Call, CallOptions, Undo
from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.domain.needs import uses_item
from fractal_rm.domain.run import Run

# The arguments of `Components.call`: route, body, header lines, a shorter time limit.
ComponentRequest = tuple[Route, bytes | None, bytes, float | None]

# Characters of all HEADER or all QUERY lines of a call. Percent-encoding more takes too long.
MAX_LINE_CHARACTERS = 1_000_000
_NO_TERMS = CallOptions()


class CallPart(msgspec.Struct, frozen=True):
    """A special request of a call: for one element of a FOREACH, or to undo the call.

    ``name``: see `domain.facts.request_name`. ``element`` counts from 1.
    """

    name: str
    context: EvaluationContext
    element: int = 0
    undo: Undo | None = None


def part_for_element(call: Call, element: int, context: EvaluationContext) -> CallPart:
    """The request for one element of a FOREACH."""
    return CallPart(f"{call.number}.{element}", context, element)


def part_for_undo(call: Call, undo: Undo, context: EvaluationContext) -> CallPart:
    """The request that undoes a finished call."""
    return CallPart(undo_request_name(call.number), context, undo=undo)


def build_request(
    run: Run,
    call: Call,
    component: Component,
    endpoint: Endpoint,
    config: Config,
    part: CallPart | None = None,
) -> ComponentRequest | None:
    """Build the request of a call; None: its WHEN skips it. Raises CannotEvaluate."""
    if part is not None:
        headers = f"Idempotency-Key: {run.id}:{part.name}\r\n".encode()
        if part.undo is not None:
            body = undo_body(part.undo, part.context, component.body)
            return endpoint.post, body, headers, _seconds(_terms(call).timeout_ms)
        return _with_terms(call, component, endpoint, headers, part.context, of_item=True)
    headers = f"Idempotency-Key: {run.id}:{call.number}\r\n".encode()
    if call.options is UNSET and call.method.in_original and not run.has_bytes:
        if not call.method.has_body:
            return endpoint.get, None, headers, None
        body = request_body(call.items, run.payload, run.results, component.body)
        return endpoint.post, body, headers, None
    return _with_terms(call, component, endpoint, headers, context_of(run, config.bounds))


def with_time_limit(request: ComponentRequest, left_s: float) -> ComponentRequest:
    """The same request with the time that its run has left, as a header and as time limit."""
    route, body, headers, timeout_s = request
    left_s = max(left_s, 0.001)
    headers += b"Fractal-Time-Left: %d\r\n" % round(left_s * 1000)
    return route, body, headers, left_s if timeout_s is None else min(timeout_s, left_s)


def context_of(run: Run, bounds: Bounds) -> EvaluationContext:
    """The context in which the next step is evaluated."""
    return EvaluationContext(run.payload, run.results, run.heads or {}, bounds.max_evaluated_values)


def _terms(call: Call) -> CallOptions:
    return _NO_TERMS if call.options is UNSET else call.options


def _with_terms(
    call: Call,
    component: Component,
    endpoint: Endpoint,
    headers: bytes,
    context: EvaluationContext,
    *,
    of_item: bool = False,
) -> ComponentRequest | None:
    """Build the request of a call that may use all of the language. None: its WHEN skips it.

    A WHEN that does not refer to the item was evaluated once for the whole FOREACH.
    """
    terms = _terms(call)
    when = terms.when
    if when is not None and of_item and not uses_item(when):
        when = None
    if when is not None and not is_true(when, context):
        return None
    body = call_body(call, terms, context, component.body) if call.method.has_body else None
    return _route(call, endpoint, terms, context), body, headers, _seconds(terms.timeout_ms)


def _route(call: Call, endpoint: Endpoint, terms: CallOptions, context: EvaluationContext) -> Route:
    """The route of an endpoint with the call's method, parameters and headers."""
    route = endpoint.post if call.method.has_body else endpoint.get
    if call.method.value != route.method:
        route = with_method(route, call.method.value)
    try:
        if terms.query:
            route = with_query(route, _texts(terms.query, context))
        if terms.headers:
            route = with_headers(route, _texts(terms.headers, context))
    except ValueError as error:
        raise CannotEvaluate(f"it cannot be sent: {error}") from None
    return route


def _texts(
    pairs: tuple[tuple[str, Value], ...], context: EvaluationContext
) -> list[tuple[str, str]]:
    """Names with their values as text; null values are left out. Raises ValueError."""
    found = [(name, as_text(value, context)) for name, value in pairs]
    if sum(len(text) for _, text in found if text is not None) > MAX_LINE_CHARACTERS:
        raise ValueError(
            f"its HEADER or QUERY lines have more than {MAX_LINE_CHARACTERS:,} characters"
        )
    return [(name, text) for name, text in found if text is not None]


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000
