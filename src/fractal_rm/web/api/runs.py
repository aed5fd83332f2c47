"""``/v1/runs``: the runs in the journals of the node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from fractal_rm.engine.ports import Found, History, RunSummary
from fractal_rm.web.api.filters import RunsQuery, filter_of
from fractal_rm.web.api.query import read_query
from fractal_rm.web.api.run_view import RunView
from fractal_rm.web.api.versioned import versioned


class RunsResponse(msgspec.Struct):
    """A page of runs, the newest first.

    To get the next page, set the query parameter ``cursor`` to the value of ``next``. If ``next``
    is null, no further run matches. A search ends after a time limit; then ``runs`` may be few or
    empty, ``next`` continues the search, and all runs accepted since ``searched_to_ms`` were
    examined. ``unreadable`` names damaged journals and runs, which are not listed.
    """

    runs: list[RunSummary]
    next: str | None
    searched_to_ms: int | None
    unreadable: list[str]

    @classmethod
    def of(cls, found: Found) -> RunsResponse:
        """The response for what was found."""
        return cls(found.runs, found.next, found.searched_to_ms, found.unreadable)


def run_routes(
    history: History, runs: RunView, now_ms: Callable[[], int]
) -> list[HTTPRouteHandler]:
    """Make the routes of ``/v1/runs``. Their handlers read the disk in threads."""

    @get("/v1/runs", opt={"query": RunsQuery})
    async def list_runs(request: Request[Any, Any, Any]) -> RunsResponse:
        query = read_query(request.scope["query_string"], RunsQuery)
        wanted = filter_of(query, now_ms())
        found = await asyncio.to_thread(
            history.find, wanted, cursor=query.cursor, limit=query.limit
        )
        return RunsResponse.of(found)

    @get("/v1/runs/{run_id:str}")
    async def show_run(request: Request[Any, Any, Any]) -> Response[bytes]:
        run_id: str = request.path_params["run_id"]
        return versioned(request, await runs.response(run_id, request))

    return [list_runs, show_run]
