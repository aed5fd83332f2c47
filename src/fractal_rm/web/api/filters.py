"""The conditions on runs, as clients write them in queries and in JSON."""

from __future__ import annotations

from typing import Annotated

import msgspec

from fractal_rm.domain.point_in_time import MAX_MS, PATTERN, NotATime, read_time
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import State
from fractal_rm.web.api.query import BadParameter

MAX_RUNS = 500
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
TimeText = Annotated[
    str, msgspec.Meta(min_length=1, max_length=40, extra_json_schema={"pattern": PATTERN})
]
States = Annotated[tuple[State, ...], msgspec.Meta(min_length=1)]
Duration = Annotated[int, msgspec.Meta(ge=0, le=MAX_MS)]
Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_RUNS)]
Cursor = Annotated[str, msgspec.Meta(min_length=1, max_length=2_000)]


class Conditions(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Conditions that a run must fulfil, all of them; see `RunFilter`.

    ``since`` and ``until`` are points in time (`domain.point_in_time`). ``slower_ms`` is in
    milliseconds.
    """

    flow: Name | None = None
    state: States | None = None
    component: Name | None = None
    cause: Name | None = None
    node: Name | None = None
    source: Name | None = None
    since: TimeText | None = None
    until: TimeText | None = None
    text: Name | None = None
    handled: bool | None = None
    slower_ms: Duration | None = None


class RunsQuery(Conditions, frozen=True):
    """The parameters of a list of runs."""

    limit: Limit = 50
    cursor: Cursor | None = None


class DeadQuery(msgspec.Struct, frozen=True):
    """The parameters of a list of dead letters."""

    cause: Name | None = None
    source: Name | None = None
    since: TimeText | None = None
    until: TimeText | None = None
    text: Name | None = None
    handled: bool | None = None
    limit: Limit = 50
    cursor: Cursor | None = None


def filter_of(
    conditions: Conditions, now_ms: int, *, dead_letters: bool | None = None
) -> RunFilter:
    """The filter for conditions of a client. ``now_ms`` is the wall time now.

    Raises BadParameter.
    """
    return RunFilter(
        flow=conditions.flow,
        states=conditions.state,
        component=conditions.component,
        cause=conditions.cause,
        node=conditions.node,
        source=conditions.source,
        since_ms=_time("since", conditions.since, now_ms),
        until_ms=_time("until", conditions.until, now_ms),
        text=conditions.text,
        handled=conditions.handled,
        slower_ms=conditions.slower_ms,
        dead_letters=dead_letters,
    )


def _time(name: str, text: str | None, now_ms: int) -> int | None:
    return None if text is None else time_of(name, text, now_ms)


def time_of(name: str, text: str, now_ms: int) -> int:
    """The time of the parameter ``name``, in milliseconds since 1970. Raises BadParameter."""
    try:
        return read_time(text, now_ms)
    except NotATime as error:
        raise BadParameter(f"{name}: {error}") from None
