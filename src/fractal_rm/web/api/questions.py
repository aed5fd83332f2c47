"""Questions about many runs: failures, dead letters, counts and the data of charts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from litestar import Request, get
from litestar.handlers import HTTPRouteHandler

from fractal_rm.engine.ports import Count, Failures, History, Minute
from fractal_rm.web.api.filters import (
    Conditions,
    DeadQuery,
    Name,
    RunsQuery,
    TimeText,
    filter_of,
    time_of,
)
from fractal_rm.web.api.query import BadParameter, read_query
from fractal_rm.web.api.runs import RunsResponse

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
MAX_ROWS = 3_000  # minutes or hours of one response


class MinutesQuery(msgspec.Struct, frozen=True):
    """The parameters of ``/v1/minutes``."""

    since: TimeText = "1h"
    until: TimeText = "0s"
    flow: Name | None = None
    hours: bool = False


class MinutesResponse(msgspec.Struct, frozen=True):
    """The minutes (or hours) between two times, in order; times in milliseconds since 1970."""

    since_ms: int
    until_ms: int
    minutes: list[Minute]


def question_routes(history: History, now_ms: Callable[[], int]) -> list[HTTPRouteHandler]:
    """Make the routes. Their handlers read the disk in threads."""

    @get("/v1/runs/count", opt={"query": Conditions})
    async def count(request: Request[Any, Any, Any]) -> Count:
        query = read_query(request.scope["query_string"], Conditions)
        return await asyncio.to_thread(history.count, filter_of(query, now_ms()))

    @get("/v1/failures", opt={"query": Conditions})
    async def failures(request: Request[Any, Any, Any]) -> Failures:
        query = read_query(request.scope["query_string"], Conditions)
        return await asyncio.to_thread(history.failures, filter_of(query, now_ms()))

    @get("/v1/dead", opt={"query": DeadQuery})
    async def dead(request: Request[Any, Any, Any]) -> RunsResponse:
        query = read_query(request.scope["query_string"], DeadQuery)
        conditions = RunsQuery(
            cause=query.cause, source=query.source, since=query.since, until=query.until,
            text=query.text, handled=query.handled,
        )  # fmt: skip
        wanted = filter_of(conditions, now_ms(), dead_letters=True)
        found = await asyncio.to_thread(
            history.find, wanted, cursor=query.cursor, limit=query.limit
        )
        return RunsResponse.of(found)

    @get("/v1/minutes", opt={"query": MinutesQuery})
    async def minutes(request: Request[Any, Any, Any]) -> MinutesResponse:
        query = read_query(request.scope["query_string"], MinutesQuery)
        now = now_ms()
        since_ms, until_ms = time_of("since", query.since, now), time_of("until", query.until, now)
        if (until_ms - since_ms) / (HOUR_MS if query.hours else MINUTE_MS) > MAX_ROWS:
            unit = "hours" if query.hours else "minutes; hours=true gives hours"
            raise BadParameter(f"since: one response has at most {MAX_ROWS} {unit}")
        found = await asyncio.to_thread(
            lambda: history.minutes(since_ms, until_ms, flow=query.flow, hours=query.hours)
        )
        return MinutesResponse(since_ms, until_ms, found)

    return [count, failures, dead, minutes]
