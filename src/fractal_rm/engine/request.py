"""What a call sends, decided from its flow and what the run has seen. Nothing is sent here."""

from __future__ import annotations

from msgspec import UNSET

from fractal_rm.config.model import Component, Endpoint
from fractal_rm.domain.body import request_body, told_body
from fractal_rm.domain.call import Route, as_method, with_headers, with_query
from fractal_rm.domain.errors import CannotEvaluate
from fractal_rm.domain.evaluate import Seen, as_text, holds
from fractal_rm.domain.expression import Value
from fractal_rm.domain.flow import Call, Method, Terms
from fractal_rm.domain.run import Run

# What Components.call takes: route, body, header lines, a shorter time limit.
Request = tuple[Route, bytes | None, bytes, float | None]

_NO_TERMS = Terms()


def request_of(run: Run, call: Call, component: Component, endpoint: Endpoint) -> Request | None:
    """The request of a call; None: its WHEN says that it is not made. Raises CannotEvaluate."""
    headers = f"Idempotency-Key: {run.id}:{call.number}\r\n".encode()
    if call.terms is UNSET:
        if call.method is Method.GET:
            return endpoint.get, None, headers, None
        if call.method is Method.POST:
            body = request_body(call.items, run.payload, run.results, component.body)
            return endpoint.post, body, headers, None
    return _told(run, call, component, endpoint, headers)


def seen_by(run: Run) -> Seen:
    """What the next step can refer to."""
    return Seen(run.payload, run.results, run.heads or {})


def _told(
    run: Run, call: Call, component: Component, endpoint: Endpoint, headers: bytes
) -> Request | None:
    """Of a call that says more than the seed's language."""
    terms = _NO_TERMS if call.terms is UNSET else call.terms
    seen = seen_by(run)
    if terms.when is not None and not holds(terms.when, seen):
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
    """Names with their values; what is null is left out."""
    found = [(name, as_text(value, seen)) for name, value in pairs]
    return [(name, text) for name, text in found if text is not None]


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000
