"""What a reply or a failure means for a step. Plain functions."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from string import punctuation
from urllib.parse import quote

import msgspec
from msgspec import UNSET

from fractal_rm.domain.call import Reply
from fractal_rm.domain.call_errors import CallFailed
from fractal_rm.domain.cause import Answered, Cause, Failure
from fractal_rm.domain.condition import holds
from fractal_rm.domain.expression import Expression
from fractal_rm.domain.flow import Retry
from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.domain.result import text_of
from fractal_rm.domain.seen import Seen

CONNECT_TRIES = 3
MOST_PAUSE_S = 30.0  # between two tries, unless the flow begins with a longer one
MOST_RETRY_AFTER_S = 300.0
MOST_SAID = 200  # characters of an answer that a reason repeats


class Later(msgspec.Struct, frozen=True):
    """A run has nothing to do for so many seconds: it wants another turn then, and no slot now.

    ``begun`` says of the step that waits whether it has done anything yet.
    """

    after_s: float
    begun: bool = True


def failure_of(answer: Reply | CallFailed) -> Failure | None:
    """Why an answer fails its step, or None: without an answer, or with a status of 300 and above.

    A component that points elsewhere has not done what it was asked for.
    """
    if isinstance(answer, CallFailed):
        return Failure.of(answer)
    if answer.status < 300:
        return None
    return Failure(Cause.STATUS, _words_of(answer), _answered(answer))


def _words_of(answer: Reply) -> str:
    return f"status {answer.status}{said_with(answer)}"


def _answered(answer: Reply) -> Answered:
    return Answered(answer.status, _location(answer) or UNSET, _begin(answer) or UNSET)


def said_with(answer: Reply) -> str:
    """What follows on a status in words: where a redirect points, and how the body begins."""
    location, begin = _location(answer), _begin(answer)
    points = f", pointing to {location}" if location else ""
    if begin is None:
        begin = f"{len(answer.body)} bytes"
    return points + (f": {begin}" if begin else "")


def _location(answer: Reply) -> str:
    """Where a redirect points; nothing where it is none."""
    target = answer.header("location") if 300 <= answer.status < 400 else None
    return _as_address(target[:MOST_SAID]) if target else ""


def _as_address(target: str) -> str:
    """The value of a Location as components.conf can have it: some servers do not encode it."""
    return quote(target, safe=punctuation, encoding="latin-1")


def _begin(answer: Reply) -> str | None:
    """How the body begins, on one line; None: it is no text."""
    text = text_of(answer)
    return None if text is None else " ".join(text[:MOST_SAID].split())


def unmet(expect: Expression, answer: Reply, seen: Seen, *, settles: bool) -> Failure | None:
    """Why an answer fails a step that says what it expects, or None.

    ``seen`` holds the answer already. What looks at the call's own status decides about it alone
    (``settles``): a 404 may be what was expected.
    """
    failure = failure_of(answer)
    if failure and not settles:
        return failure
    try:
        met = holds(expect, seen)
    except CannotEvaluate as fault:
        return Failure(Cause.of(fault), f"EXPECT: {fault}", _answered(answer))
    if met:
        return None
    return Failure(Cause.NOT_EXPECTED, f"not as expected: {_words_of(answer)}", _answered(answer))


def call_again_s(
    answer: Reply | CallFailed,
    tries: int,
    fraction: float,
    *,
    retry: Retry | None = None,
    idempotent: bool = True,
    now_ms: int = 0,
) -> float | None:
    """After how many seconds a failed call is made again; None: no more.

    What was never sent is, as nothing has happened yet; anything else only where RETRY asks for
    it, and the component can bear it. ``tries`` counts from 1, ``fraction`` is the jitter from 0
    to 1, ``now_ms`` is the wall clock.
    """
    unsent = isinstance(answer, CallFailed) and not answer.sent
    if not unsent and (retry is None or not idempotent or _is_final(answer)):
        return None
    if tries >= max(retry.times + 1 if retry else 0, CONNECT_TRIES if unsent else 0):
        return None
    if retry is None:
        return 0.1 * 3 ** (tries - 1) * (0.5 + fraction / 2)
    longest_s = max(MOST_PAUSE_S, retry.every_ms / 1000)
    pause_s = min(longest_s, retry.every_ms / 1000 * 2 ** min(tries - 1, 20))
    asked_s = _retry_after_s(answer, now_ms)
    if asked_s > MOST_RETRY_AFTER_S:
        return None  # it would hold its slot for so long
    return max(asked_s, pause_s * (0.5 + fraction / 2))


def _is_final(answer: Reply | CallFailed) -> bool:
    """Whether a component has said that the same request will get the same answer.

    So have those that point elsewhere.
    """
    if isinstance(answer, CallFailed):
        return False
    return 300 <= answer.status < 500 and answer.status not in (408, 425, 429)


def _retry_after_s(answer: Reply | CallFailed, now_ms: int) -> float:
    """Seconds or a date (RFC 9110, 10.2.3); 0 where neither is said.

    A date is compared with the answer's own ``Date`` (6.6.1): the component's clock and this one
    need not agree.
    """
    if not isinstance(answer, Reply) or (said := answer.header("retry-after")) is None:
        return 0.0
    if said.isascii() and said.isdigit():
        return float(said[:9])
    until_s = _date_s(said)
    if until_s is None:
        return 0.0
    now_s = _date_s(answer.header("date") or "")
    return max(0.0, until_s - (now_ms / 1000 if now_s is None else now_s))


def _date_s(text: str) -> float | None:
    """Seconds since 1970, UTC, of an HTTP date; None where it is none."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
