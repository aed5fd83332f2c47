"""What operators do with one run, one dead letter or one flow.

Each handler builds a value of `domain.actions`; the port `Actions` does what it says. The status is
200 if everything that was asked has happened, and 202 if a run goes on because of it.
"""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, post
from litestar.handlers import HTTPRouteHandler

from fractal_rm.domain.actions import (
    ActionDone,
    AnyAction,
    PauseFlow,
    Release,
    ResumeFlow,
)
from fractal_rm.engine.ports.actions import Actions
from fractal_rm.web.api.action_options import (
    MAX_MESSAGE_BYTES,
    CancelOptions,
    DiscardOptions,
    NoOptions,
    ReplayOptions,
    SendOptions,
)
from fractal_rm.web.api.action_requests import (
    act,
    check_if_match,
    has_if_match,
    read_options,
)
from fractal_rm.web.api.flow_view import FlowView
from fractal_rm.web.api.run_view import RunView
from fractal_rm.web.api.versioned import etag_of


class ActionHandlers:
    """Does actions for requests. ``runs`` and ``flows`` give the versions for `If-Match`."""

    def __init__(self, actions: Actions, runs: RunView, flows: FlowView) -> None:
        self._actions = actions
        self._runs = runs
        self._flows = flows

    async def on_run(self, request: Request[Any, Any, Any], action: AnyAction, run_id: str) -> Any:
        """Act on a run or a dead letter."""
        if has_if_match(request):
            check_if_match(request, etag_of(await self._runs.encoded(run_id, request)))
        return _response(await act(self._actions, request, action))

    async def on_flow(
        self, request: Request[Any, Any, Any], action: AnyAction, flow_id: str
    ) -> Any:
        """Act on a flow."""
        if has_if_match(request):
            check_if_match(request, etag_of(self._flows.encoded(flow_id)))
        return _response(await act(self._actions, request, action))


def _response(done: ActionDone) -> Response[ActionDone]:
    """The response to an action. A new run, or one that is still open, goes on: 202."""
    goes_on = done.new_run is not None or (done.state is not None and not done.state.final)
    headers = {"Location": f"/v1/runs/{done.new_run}"} if done.new_run else None
    return Response(done, status_code=202 if goes_on else 200, headers=headers)


def action_routes(handlers: ActionHandlers) -> list[HTTPRouteHandler]:
    """Make the routes of actions. `web.access` has checked the scope ``operate``."""

    @post("/v1/runs/{run_id:str}/cancel")
    async def cancel(request: Request[Any, Any, Any]) -> Response[ActionDone]:
        run_id: str = request.path_params["run_id"]
        options = await read_options(request, CancelOptions)
        return await handlers.on_run(request, options.to_action(run_id), run_id)

    @post("/v1/runs/{run_id:str}/replay")
    async def replay(request: Request[Any, Any, Any]) -> Response[ActionDone]:
        run_id: str = request.path_params["run_id"]
        options = await read_options(request, ReplayOptions)
        return await handlers.on_run(request, options.to_action(run_id), run_id)

    @post("/v1/runs/{run_id:str}/release")
    async def release(request: Request[Any, Any, Any]) -> Response[ActionDone]:
        run_id: str = request.path_params["run_id"]
        _ = await read_options(request, NoOptions)
        return await handlers.on_run(request, Release(run_id), run_id)

    @post(["/v1/dead/{run_id:str}/discard", "/v1/runs/{run_id:str}/discard"])
    async def discard(request: Request[Any, Any, Any]) -> Response[ActionDone]:
        run_id: str = request.path_params["run_id"]
        options = await read_options(request, DiscardOptions)
        return await handlers.on_run(request, options.to_action(run_id), run_id)

    @post("/v1/dead/{run_id:str}/send")
    async def send(request: Request[Any, Any, Any]) -> Response[ActionDone]:
        run_id: str = request.path_params["run_id"]
        options = await read_options(request, SendOptions, MAX_MESSAGE_BYTES)
        return await handlers.on_run(request, options.to_action(run_id), run_id)

    @post("/v1/flows/{flow_id:str}/pause")
    async def pause(request: Request[Any, Any, Any]) -> Response[ActionDone]:
        flow_id: str = request.path_params["flow_id"]
        _ = await read_options(request, NoOptions)
        return await handlers.on_flow(request, PauseFlow(flow_id), flow_id)

    @post("/v1/flows/{flow_id:str}/resume")
    async def resume(request: Request[Any, Any, Any]) -> Response[ActionDone]:
        flow_id: str = request.path_params["flow_id"]
        _ = await read_options(request, NoOptions)
        return await handlers.on_flow(request, ResumeFlow(flow_id), flow_id)

    return [cancel, replay, release, discard, send, pause, resume]
