"""Groups of failures as rows of a list: what, how often, since when, and where to look."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from fractal_rm.engine.ports import FailureGroup
from fractal_rm.web.pages.filter_links import conditions_of, query_of

STILL_MS = 5 * 60_000  # a failure that occurred within this time is said to go on


class FailureRow(msgspec.Struct, frozen=True):
    """A group of failures. ``goes_on``: it occurred in the last minutes.

    ``query`` is that of the page of failures with only this group.
    """

    group: FailureGroup
    goes_on: bool
    query: str


def failure_rows(groups: Iterable[FailureGroup], now_ms: int) -> list[FailureRow]:
    """The rows: what goes on comes first, and of this what occurred most often."""
    rows = [FailureRow(each, now_ms - each.last_ms < STILL_MS, _query(each)) for each in groups]
    going_on = sorted((row for row in rows if row.goes_on), key=lambda row: -row.group.count)
    return [*going_on, *(row for row in rows if not row.goes_on)]


def _query(group: FailureGroup) -> str:
    """The query of the page of failures, which shows the last 24 hours."""
    other = {"since": None, "until": None, "handled": None}
    return query_of({**conditions_of(group), **other})
