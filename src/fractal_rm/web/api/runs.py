"""``/v1/runs``: the runs in the journals of the node."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import Request, get
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.params import Parameter

from fractal_rm.domain.access import Scope
from fractal_rm.domain.masking.facts import masked
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import History, RunDetail, RunPage, RunSummary, TimedFact
from fractal_rm.web.api.identity import identity_of

MAX_RUNS = 500


class RunsResponse(msgspec.Struct):
    """A page of runs, the newest first.

    To get the next page, set the query parameter ``before`` to the value of ``next``.
    ``unreadable`` names damaged journals and runs, which are not listed.
    """

    runs: list[RunSummary]
    next: str | None
    unreadable: list[str]


def run_routes(history: History) -> list[HTTPRouteHandler]:
    """Make the routes of ``/v1/runs``. Their handlers read the disk in threads."""

    @get("/v1/runs", summary="Runs, the newest first")
    async def list_runs(
        in_state: Annotated[State | None, Parameter(query="state")] = None,
        flow: str | None = None,
        limit: Annotated[int, Parameter(ge=1, le=MAX_RUNS)] = 50,
        before: str | None = None,
    ) -> RunsResponse:
        def read() -> RunPage:
            return history.page(state=in_state, flow=flow, limit=limit, before=before)

        page = await asyncio.to_thread(read)
        last = page.runs[-1].id if len(page.runs) == limit else None
        return RunsResponse(page.runs, last, page.unreadable)

    @get("/v1/runs/{run_id:str}", summary="One run with all its facts")
    async def show_run(run_id: str, request: Request[Any, Any, Any]) -> RunDetail:
        detail = await asyncio.to_thread(history.run, run_id)
        if detail is None:
            raise HTTPException(status_code=404, detail=f"no run {run_id[:40]} is in the journals")
        return detail if identity_of(request).may(Scope.PAYLOAD) else _without_values(detail)

    return [list_runs, show_run]


def _without_values(detail: RunDetail) -> RunDetail:
    facts = [TimedFact(each.at_ms, masked(each.fact, shows_values=False)) for each in detail.facts]
    return msgspec.structs.replace(detail, facts=facts)
