"""Build the HTTP request of a call from its flow and the state of its run."""

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
from fractal_rm.domain.run_id import ID_LENGTH
from fractal_rm.domain.trace import header_for

# The arguments of `Components.call`: route, body, header lines, and the time limit in seconds.
ComponentRequest = tuple[Route, bytes | None, bytes, float | None]

# The maximum number of characters in all HEADER lines of a call, and in all its QUERY lines. To
# percent-encode more characters would block the event loop for too long.
MAX_LINE_CHARACTERS = 1_000_000
_NO_OPTIONS = CallOptions()


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
    """Build the request of a call. None: the WHEN of the call skips it. Raises CannotEvaluate."""
    if part is not None:
        headers = idempotency_header(run, part.name)
        if part.undo is not None:
            body = undo_body(part.undo, part.context, component.body)
            return endpoint.post, body, headers, _seconds(_options_of(call).timeout_ms)
        return _build_with_options(call, component, endpoint, headers, part.context, of_item=True)
    headers = f"Idempotency-Key: {run.id[:ID_LENGTH]}:{call.number}\r\n".encode()
    if call.options is UNSET and call.method.in_original and not run.progress.has_bytes:
        if not call.method.has_body:
            return endpoint.get, None, headers, None
        body = request_body(call.items, run.accepted.payload, run.progress.results, component.body)
        return endpoint.post, body, headers, None
    return _build_with_options(call, component, endpoint, headers, context_of(run, config.bounds))


def idempotency_header(run: Run, name: str) -> bytes:
    """The header line with the key of a request. ``name``: see `domain.facts.request_name`."""
    return f"Idempotency-Key: {run.id[:ID_LENGTH]}:{name}\r\n".encode()


def with_time_limit(request: ComponentRequest, left_s: float) -> ComponentRequest:
    """Add the remaining time of the run to a request, as a header and as the time limit."""
    route, body, headers, timeout_s = request
    left_s = max(left_s, 0.001)
    headers += b"Fractal-Time-Left: %d\r\n" % round(left_s * 1000)
    return route, body, headers, left_s if timeout_s is None else min(timeout_s, left_s)


def with_trace(
    request: ComponentRequest, run: Run, name: str, attempt: int, sample: float | None
) -> ComponentRequest:
    """Add the header ``traceparent`` of an attempt to a request, unless the flow sets it.

    ``name``: see `domain.facts.request_name`. ``sample``: see `domain.trace.header_for`.
    """
    route, body, headers, timeout_s = request
    value = header_for(run, sample, name, attempt)
    if value is None or b"\r\ntraceparent:" in route.head.lower():
        return request
    return route, body, headers + b"traceparent: %b\r\n" % value.encode(), timeout_s


def context_of(run: Run, bounds: Bounds) -> EvaluationContext:
    """The context in which the next step is evaluated."""
    payload, progress = run.accepted.payload, run.progress
    heads = progress.heads or {}
    return EvaluationContext(payload, progress.results, heads, bounds.max_evaluated_values)


def _options_of(call: Call) -> CallOptions:
    return _NO_OPTIONS if call.options is UNSET else call.options


def _build_with_options(
    call: Call,
    component: Component,
    endpoint: Endpoint,
    headers: bytes,
    context: EvaluationContext,
    *,
    of_item: bool = False,
) -> ComponentRequest | None:
    """Build the request of a call that may have any options. None: its WHEN skips it.

    ``of_item``: the call is for an element of a FOREACH. Then a WHEN without ``item`` was already
    evaluated, once for the whole FOREACH.
    """
    options = _options_of(call)
    when = options.when
    if when is not None and of_item and not uses_item(when):
        when = None
    if when is not None and not is_true(when, context):
        return None
    body = call_body(call, options, context, component.body) if call.method.has_body else None
    return _route(call, endpoint, options, context), body, headers, _seconds(options.timeout_ms)


def _route(
    call: Call, endpoint: Endpoint, options: CallOptions, context: EvaluationContext
) -> Route:
    """The route of an endpoint with the call's method, parameters and headers."""
    route = endpoint.post if call.method.has_body else endpoint.get
    if call.method.value != route.method:
        route = with_method(route, call.method.value)
    try:
        if options.query:
            route = with_query(route, _text_pairs(options.query, context))
        if options.headers:
            route = with_headers(route, _text_pairs(options.headers, context))
    except ValueError as error:
        raise CannotEvaluate(f"the request cannot be sent: {error}") from None
    return route


def _text_pairs(
    pairs: tuple[tuple[str, Value], ...], context: EvaluationContext
) -> list[tuple[str, str]]:
    """Return each name with its value as text, except null values. Raises ValueError."""
    texts = [(name, as_text(value, context)) for name, value in pairs]
    if sum(len(text) for _, text in texts if text is not None) > MAX_LINE_CHARACTERS:
        raise ValueError(
            f"the HEADER or QUERY lines have more than {MAX_LINE_CHARACTERS:,} characters"
        )
    return [(name, text) for name, text in texts if text is not None]


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000
