"""Plain functions that decide what a response or an error means: success, failure, or a retry.

`failure_of` and `expectation_failure` decide whether an attempt has failed. `retry_delay_s` decides
whether and when there is another attempt. `engine.execute.calls` uses them for calls, and
`engine.execute.unnumbered` for PUBLISH.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from string import punctuation
from urllib.parse import quote

import msgspec
from msgspec import UNSET

from fractal_rm.domain.backoff import backoff_s
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.call_errors import CallFailed, CircuitOpen, ConnectFailed
from fractal_rm.domain.cause import Cause, Failure, ResponseExcerpt
from fractal_rm.domain.condition import is_true
from fractal_rm.domain.evaluation_context import EvaluationContext
from fractal_rm.domain.expression import Expression
from fractal_rm.domain.facts import Settled
from fractal_rm.domain.flow import Retry
from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.domain.result import text_of
from fractal_rm.domain.state import State

# The current form of a date in HTTP, and the two obsolete forms. The standard library's `email` can
# parse them too, but takes 0.24 MiB of memory.
_HTTP_DATES = ("%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")
CONNECT_ATTEMPTS = 3
MAX_RETRY_PAUSE_S = 30.0  # the longest pause between two attempts, unless EVERY is longer
MAX_RETRY_AFTER_S = 300.0
MAX_QUOTED_CHARACTERS = 200  # the longest part of a response that a reason quotes


class ResumeLater(msgspec.Struct, frozen=True):
    """A run frees its slot, and continues after ``after_s`` seconds.

    ``begun``: whether the step that pauses the run has begun its work.
    """

    after_s: float
    has_begun: bool = True


def failure_of(response: HttpResponse | CallFailed) -> Failure | None:
    """Why an attempt failed: it got no response, or a status above 299. None if it succeeded.

    A redirect is a failure, because the component did not process the request.
    """
    if isinstance(response, CallFailed):
        return Failure.of(response)
    if response.status < 300:
        return None
    return Failure(Cause.STATUS, _describe(response), _excerpt(response))


def _describe(response: HttpResponse) -> str:
    return f"status {response.status}{response_details(response)}"


def _excerpt(response: HttpResponse) -> ResponseExcerpt:
    return ResponseExcerpt(
        response.status, _location(response) or UNSET, _body_start(response) or UNSET
    )


def response_details(response: HttpResponse) -> str:
    """Details of a response for a reason: the target of a redirect, and the start of the body."""
    location, begin = _location(response), _body_start(response)
    points = f", pointing to {location}" if location else ""
    if begin is None:
        begin = f"{len(response.body)} bytes"
    return points + (f": {begin}" if begin else "")


def _location(response: HttpResponse) -> str:
    """The target of a redirect; empty if the response is not a redirect."""
    target = response.header("location") if 300 <= response.status < 400 else None
    return _percent_encoded(target[:MAX_QUOTED_CHARACTERS]) if target else ""


def _percent_encoded(target: str) -> str:
    """Percent-encode a Location, as a URL must be, if the server did not encode it."""
    return quote(target, safe=punctuation, encoding="latin-1")


def _body_start(response: HttpResponse) -> str | None:
    """The start of the body on one line; None if it is not text."""
    text = text_of(response)
    return None if text is None else " ".join(text[:MAX_QUOTED_CHARACTERS].split())


def expectation_failure(
    expect: Expression, response: HttpResponse, context: EvaluationContext, *, expect_decides: bool
) -> Failure | None:
    """Why a step with EXPECT failed, or None. ``context`` also has the response.

    ``expect_decides``: whether the condition tests the status of this call. In that case, it alone
    decides which status is a success. For example, a 404 may be expected.
    """
    failure = failure_of(response)
    if failure and not expect_decides:
        return failure
    try:
        met = is_true(expect, context)
    except CannotEvaluate as fault:
        return Failure(Cause.of(fault), f"EXPECT: {fault}", _excerpt(response))
    if met:
        return None
    return Failure(
        Cause.NOT_EXPECTED,
        f"the response is not as expected: {_describe(response)}",
        _excerpt(response),
    )


def retry_delay_s(
    response: HttpResponse | CallFailed,
    attempt: int,
    fraction: float,
    *,
    retry: Retry | None = None,
    idempotent: bool = True,
    now_ms: int = 0,
) -> float | None:
    """Seconds until a failed call is retried, or None if it is not retried.

    A request that was not sent had no effect. So it is sent up to CONNECT_ATTEMPTS times, or more
    often if RETRY allows more. This also applies if there was no connection after the component had
    closed a used one (see `ConnectFailed`), because only idempotent components are called on used
    connections. If the circuit is open, only RETRY allows another attempt. After any other failure,
    there must be a RETRY, the component must be idempotent, and the response must not be final.
    ``attempt`` counts the attempts from 1. ``fraction`` is a random number from 0 to 1 for the
    jitter. ``now_ms`` is the wall clock.
    """
    unsent = isinstance(response, ConnectFailed) or (
        isinstance(response, CallFailed) and not response.sent
    )
    if not unsent and (retry is None or not idempotent or _is_final(response)):
        return None
    connect_attempts = CONNECT_ATTEMPTS if unsent and not isinstance(response, CircuitOpen) else 0
    if attempt >= max(retry.times + 1 if retry else 0, connect_attempts):
        return None
    if retry is None:
        return 0.1 * 3 ** (attempt - 1) * (0.5 + fraction / 2)
    first_s = retry.every_ms / 1000
    pause_s = backoff_s(attempt, first_s, max(MAX_RETRY_PAUSE_S, first_s), fraction)
    retry_after_s = _retry_after_s(response, now_ms)
    if retry_after_s > MAX_RETRY_AFTER_S:
        return None  # the run would use its slot for too long
    return max(retry_after_s, pause_s)


def _is_final(response: HttpResponse | CallFailed) -> bool:
    """Whether the same request would get the same response again, as for redirects and most 4xx."""
    if isinstance(response, CallFailed):
        return False
    return 300 <= response.status < 500 and response.status not in (408, 425, 429)


def _retry_after_s(response: HttpResponse | CallFailed, now_ms: int) -> float:
    """The seconds that Retry-After asks for; 0 if it is absent or not valid (RFC 9110, 10.2.3).

    Its value is a number or a date. A date is compared with the ``Date`` of the response (6.6.1),
    because the clock of the component may differ from the clock of this machine.
    """
    if not isinstance(response, HttpResponse) or (value := response.header("retry-after")) is None:
        return 0.0
    if value.isascii() and value.isdigit():
        return float(value[:9])
    until_s = _date_s(value)
    if until_s is None:
        return 0.0
    now_s = _date_s(response.header("date") or "")
    return max(0.0, until_s - (now_ms / 1000 if now_s is None else now_s))


def _date_s(text: str) -> float | None:
    """An HTTP date (RFC 9110, 5.6.7) as seconds since 1970, UTC. None if it is not valid."""
    for form in _HTTP_DATES:
        try:
            return datetime.strptime(text, form).replace(tzinfo=timezone.utc).timestamp()
        except ValueError:  # noqa: PERF203 - the date has another form
            continue
    return None


def worst_ending(endings: Sequence[Settled]) -> Settled:
    """The first ending with the state unknown. If there is none, the first ending.

    Several steps of a run can fail at the same time. ``endings`` has an ending for each of them.
    """
    unknown = [ending for ending in endings if ending.state is State.UNKNOWN]
    return (unknown or endings)[0]
