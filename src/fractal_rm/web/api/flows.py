"""``/v1/flows``: the flows of the configuration in force."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from fractal_rm.web.api.flow_view import FlowView
from fractal_rm.web.api.versioned import versioned


def flow_routes(flows: FlowView) -> list[HTTPRouteHandler]:
    """Make the routes of ``/v1/flows``."""

    @get("/v1/flows")
    async def list_flows(request: Request[Any, Any, Any]) -> Response[bytes]:
        return versioned(request, flows.all())

    @get("/v1/flows/{flow_id:str}")
    async def show_flow(request: Request[Any, Any, Any]) -> Response[bytes]:
        flow_id: str = request.path_params["flow_id"]
        return versioned(request, flows.one(flow_id))

    return [list_flows, show_flow]
