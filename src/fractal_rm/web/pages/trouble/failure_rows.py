"""Groups of failures as the rows of a page."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fractal_rm.domain.cause_words import meaning_of
from fractal_rm.domain.possible_actions import FAULTS_OF_MESSAGE
from fractal_rm.engine.ports import FailureGroup
from fractal_rm.web.pages.actions.filter_links import conditions_of, query_of

STILL_MS = 5 * 60_000  # a failure that occurred within this time is said to go on
BAR = 120  # the length of the line of time
MIN_BAR = 2


class Span(msgspec.Struct, frozen=True):
    """When a group occurred, on a line of time with the length `BAR`."""

    x: float
    width: float


class FailureRow(msgspec.Struct, frozen=True):
    """A group of failures. The queries are those of the pages that show its runs, or act on them.

    ``goes_on``: it occurred in the last minutes. ``meaning`` says what the cause means.
    ``replay_query`` is None if the messages of dead letters
    would be refused again.
    """

    group: FailureGroup
    goes_on: bool
    meaning: str
    span: Span
    runs_query: str
    replay_query: str | None
    discard_query: str


def failure_rows(
    groups: Sequence[FailureGroup], now_ms: int, since_ms: int | None = None
) -> list[FailureRow]:
    """The rows: what goes on comes first, and of this what occurred most often.

    ``since_ms``: where the line of time begins; it ends now.
    """
    begin_ms = begin_of(groups, since_ms or 0)
    rows = [_row(group, begin_ms, now_ms) for group in groups]
    going_on = sorted((row for row in rows if row.goes_on), key=lambda row: -row.group.count)
    return [*going_on, *(row for row in rows if not row.goes_on)]


def begin_of(groups: Sequence[FailureGroup], since_ms: int) -> int:
    """Where the line of time begins: at the oldest failure, if the range is longer."""
    return max(since_ms, min((each.first_ms for each in groups), default=since_ms))


def _row(group: FailureGroup, since_ms: int, now_ms: int) -> FailureRow:
    conditions = conditions_of(group)
    is_letter = group.flow is None
    many = {"dead_letters": True if is_letter else None, **conditions}
    if is_letter:
        many["state"] = None
    replay = {"action": "send" if is_letter else "replay", **many}
    return FailureRow(
        group,
        now_ms - group.last_ms < STILL_MS,
        meaning_of(group.cause),
        span_of(group, since_ms, now_ms),
        query_of({**conditions, "state": None} if is_letter else conditions),
        None if is_letter and group.cause in FAULTS_OF_MESSAGE else query_of(replay),
        query_of({"action": "discard", **many}),
    )


def span_of(group: FailureGroup, since_ms: int, now_ms: int) -> Span:
    """The part of the line of time from the first to the last failure of a group."""
    length_ms = max(now_ms - since_ms, 1)
    begin = min(max((group.first_ms - since_ms) / length_ms, 0.0), 1.0) * BAR
    end = min(max((group.last_ms - since_ms) / length_ms, 0.0), 1.0) * BAR
    width = max(end - begin, MIN_BAR)
    return Span(round(min(begin, BAR - width), 1), round(width, 1))
