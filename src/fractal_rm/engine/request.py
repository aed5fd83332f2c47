"""What a call sends, decided from its flow and what the run has seen. Nothing is sent here."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from fractal_rm.config.model import Bounds, Component, Config, Endpoint
from fractal_rm.domain.body import request_body, told_body, undo_body
from fractal_rm.domain.call import Route, as_method, with_headers, with_query
from fractal_rm.domain.condition import holds
from fractal_rm.domain.evaluate import as_text
from fractal_rm.domain.expression import Value
from fractal_rm.domain.facts import undo_name
from fractal_rm.domain.flow import Call, Terms, Undo
from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.domain.needs import speaks_of_item
from fractal_rm.domain.run import Run
from fractal_rm.domain.seen import Seen

# What Components.call takes: route, body, header lines, a shorter time limit.
Request = tuple[Route, bytes | None, bytes, float | None]

# Characters in all HEADER or all QUERY lines of a call: more takes long to percent-encode.
MOST_TEXT = 1_000_000
_NO_TERMS = Terms()


class Part(msgspec.Struct, frozen=True):
    """A request of a call that is not the one of its step: for one element, or to undo it.

    ``name`` is as in `domain.facts.name_of`; ``element`` counts from 1; ``seen`` is what it can
    refer to.
    """

    name: str
    seen: Seen
    element: int = 0
    undo: Undo | None = None


def part_of_element(call: Call, element: int, seen: Seen) -> Part:
    """The request for one element of a FOREACH."""
    return Part(f"{call.number}.{element}", seen, element)


def part_to_undo(call: Call, undo: Undo, seen: Seen) -> Part:
    """The request that undoes a finished call."""
    return Part(undo_name(call.number), seen, undo=undo)


def request_of(
    run: Run,
    call: Call,
    component: Component,
    endpoint: Endpoint,
    config: Config,
    part: Part | None = None,
) -> Request | None:
    """The request of a call; None: its WHEN says that it is not made. Raises CannotEvaluate."""
    if part is not None:
        headers = f"Idempotency-Key: {run.id}:{part.name}\r\n".encode()
        if part.undo is not None:
            body = undo_body(part.undo, part.seen, component.body)
            return endpoint.post, body, headers, _seconds(_terms(call).timeout_ms)
        return _told(call, component, endpoint, headers, part.seen, of_item=True)
    headers = f"Idempotency-Key: {run.id}:{call.number}\r\n".encode()
    if call.terms is UNSET and call.method.of_seed and not run.has_bytes:
        if not call.method.sends:
            return endpoint.get, None, headers, None
        body = request_body(call.items, run.payload, run.results, component.body)
        return endpoint.post, body, headers, None
    return _told(call, component, endpoint, headers, seen_by(run, config.bounds))


def within(request: Request, left_s: float) -> Request:
    """The same request, from a run that has so many seconds left: it says so, and ends by then."""
    route, body, headers, timeout_s = request
    left_s = max(left_s, 0.001)
    headers += b"Fractal-Time-Left: %d\r\n" % round(left_s * 1000)
    return route, body, headers, left_s if timeout_s is None else min(timeout_s, left_s)


def seen_by(run: Run, bounds: Bounds) -> Seen:
    """What the next step can refer to."""
    return Seen(run.payload, run.results, run.heads or {}, bounds.max_evaluated_values)


def _terms(call: Call) -> Terms:
    return _NO_TERMS if call.terms is UNSET else call.terms


def _told(
    call: Call,
    component: Component,
    endpoint: Endpoint,
    headers: bytes,
    seen: Seen,
    *,
    of_item: bool = False,
) -> Request | None:
    """Of a call that says more than the seed's language.

    A WHEN that does not speak of the item has been asked for the whole FOREACH.
    """
    terms = _terms(call)
    when = terms.when
    if when is not None and of_item and not speaks_of_item(when):
        when = None
    if when is not None and not holds(when, seen):
        return None
    body = told_body(call, terms, seen, component.body) if call.method.sends else None
    return _route(call, endpoint, terms, seen), body, headers, _seconds(terms.timeout_ms)


def _route(call: Call, endpoint: Endpoint, terms: Terms, seen: Seen) -> Route:
    """The route of an endpoint with the call's own method, parameters and headers."""
    route = endpoint.post if call.method.sends else endpoint.get
    if call.method.value != route.method:
        route = as_method(route, call.method.value)
    try:
        if terms.query:
            route = with_query(route, _texts(terms.query, seen))
        if terms.headers:
            route = with_headers(route, _texts(terms.headers, seen))
    except ValueError as error:
        raise CannotEvaluate(f"it cannot be sent: {error}") from None
    return route


def _texts(pairs: tuple[tuple[str, Value], ...], seen: Seen) -> list[tuple[str, str]]:
    """Names with their values; what is null is left out. Raises ValueError."""
    found = [(name, as_text(value, seen)) for name, value in pairs]
    if sum(len(text) for _, text in found if text is not None) > MOST_TEXT:
        raise ValueError(f"its HEADER or QUERY lines come to more than {MOST_TEXT:,} characters")
    return [(name, text) for name, text in found if text is not None]


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000
