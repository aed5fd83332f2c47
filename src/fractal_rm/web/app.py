"""The HTTP interface: every path that there is.

POST <rest.endpoint>          a trigger, as originals send it
POST /v1/flows/{id}/runs      a trigger; the body is the payload
GET  /v1/flows                what can be run
GET  /v1/runs, /v1/runs/{id}  what was run
GET  /livez, /readyz          for supervisors
GET  /schema                  OpenAPI 3.1 of all this

HEAD is answered as GET is, without the content.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
from litestar import Litestar, Request, Response, get, post
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.params import Parameter
from litestar.types import ASGIApp

from fractal_rm import __version__
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.refusals import Refused
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import (
    Check,
    History,
    Intake,
    RunDetail,
    RunPage,
    RunSummary,
    Telemetry,
)
from fractal_rm.web import problems
from fractal_rm.web.api.triggers import Answer, Triggers

MOST_RUNS = 500


class Runs(msgspec.Struct):
    """A page of runs, the newest first; ``next`` is the ``before`` of the next page.

    ``unreadable`` names what is damaged so that it could not be looked at.
    """

    runs: list[RunSummary]
    next: str | None
    unreadable: list[str]


class Health(msgspec.Struct):
    """``ready`` is whether every check holds."""

    ready: bool
    checks: list[Check]


def head_as_get(app: ASGIApp) -> ASGIApp:
    """Answer HEAD wherever GET is answered (RFC 9110, 9.1). The server leaves out the content."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await app(scope, receive, send)

    return answer


def make_app(
    *,
    endpoint: str,
    intake: Intake,
    history: History,
    flows: Callable[[], Mapping[str, Flow]],
    max_trigger_bytes: Callable[[], int],
    telemetry: Telemetry,
) -> ASGIApp:
    """Make the application; it is served by `RestService`."""
    triggers = Triggers(intake, history, max_trigger_bytes)

    @post(endpoint, status_code=200, summary="Run a flow, as originals ask for it")
    async def start(request: Request[Any, Any, Any]) -> Answer:
        """Body: ``{"id_flow", "is_load_balancing", "payload"}``; other keys are ignored."""
        return await triggers.take(request)

    @post("/v1/flows/{flow_id:str}/runs", status_code=202, summary="Run a flow with a payload")
    async def start_flow(request: Request[Any, Any, Any], flow_id: str) -> Response[Answer]:
        """Body: the payload, any JSON. ``Prefer: wait=N`` waits for the end (then 200)."""
        answer = await triggers.take(request, flow_id)
        return Response(
            answer,
            status_code=200 if answer.state.final else 202,
            headers={"Location": f"/v1/runs/{answer.run}"},
        )

    @get("/v1/flows", summary="The flows that can be run")
    async def list_flows() -> list[Flow]:
        return list(flows().values())

    @get("/v1/runs", summary="Runs, the newest first")
    async def list_runs(
        in_state: Annotated[State | None, Parameter(query="state")] = None,
        flow: str | None = None,
        limit: Annotated[int, Parameter(ge=1, le=MOST_RUNS)] = 50,
        before: str | None = None,
    ) -> Runs:
        def read() -> RunPage:
            return history.page(state=in_state, flow=flow, limit=limit, before=before)

        found = await asyncio.to_thread(read)
        last = found.runs[-1].id if len(found.runs) == limit else None
        return Runs(found.runs, last, found.unreadable)

    @get("/v1/runs/{run_id:str}", summary="One run with everything that happened to it")
    async def show_run(run_id: str) -> RunDetail:
        detail = await asyncio.to_thread(history.run, run_id)
        if detail is None:
            raise HTTPException(status_code=404, detail=f"no run {run_id[:40]} is in the journals")
        return detail

    @get("/livez", summary="Whether the process answers")
    async def livez() -> dict[str, str]:
        return {"status": "ok"}

    @get("/readyz", summary="Whether triggers can be taken")
    async def readyz() -> Response[Health]:
        checks = intake.readiness()
        ready = all(check.ok for check in checks)
        return Response(Health(ready, checks), status_code=200 if ready else 503)

    app = Litestar(
        route_handlers=[start, start_flow, list_flows, list_runs, show_run, livez, readyz],
        exception_handlers={
            Refused: problems.refused(telemetry),
            HTTPException: problems.http_error,
            JournalError: problems.unreadable(telemetry),
            Exception: problems.broken(telemetry),
        },
        openapi_config=OpenAPIConfig(
            title="FRACTAL Runtime Manager",
            version=__version__,
            path="/schema",
            render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"])],
        ),
        request_max_body_size=None,  # triggers.read_body keeps the bound of comm.conf
        logging_config=None,
    )
    return head_as_get(app)
