"""The ASGI application, with every path of the HTTP interface.

GET  <rest.endpoint>          what this node is, for other nodes; also GET /v1/node
POST <rest.endpoint>          a trigger in the format of the original
POST /v1/pair                 another node is joined, by the secret of an invitation
POST /v1/flows/{id}/runs      a trigger; the body is the payload
GET  /v1/flows                the flows that can be run
GET  /v1/runs, /v1/runs/{id}  runs and their facts
PUT  /v1/node/draining        begin or end to drain the node
POST /v1/runs/{id}/resolve    decide a run whose offer is in doubt
GET  /livez, /readyz          health, for supervisors
GET  /metrics                 numbers, for Prometheus
GET  /schema                  OpenAPI 3.1 description of these paths

HEAD is answered like GET, without the content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from litestar import Litestar
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.types import ASGIApp

from fractal_rm import __version__
from fractal_rm.domain.flow import Flow
from fractal_rm.engine.ports import History, Intake, PairingHost, Telemetry
from fractal_rm.web.api.error_handlers import make_error_handlers
from fractal_rm.web.api.flows import flow_routes
from fractal_rm.web.api.health import health_routes
from fractal_rm.web.api.metrics import GetMetrics, metrics_routes
from fractal_rm.web.api.node import node_routes
from fractal_rm.web.api.pair import pair_routes
from fractal_rm.web.api.runs import run_routes
from fractal_rm.web.api.triggers import TriggerHandler, trigger_routes


def make_app(
    *,
    endpoint: str,
    intake: Intake,
    history: History,
    flows: Callable[[], Mapping[str, Flow]],
    max_trigger_bytes: Callable[[], int],
    telemetry: Telemetry,
    store_draining: Callable[[bool], object],
    pairing: PairingHost | None = None,
    metrics: GetMetrics | None = None,
) -> ASGIApp:
    """Make the application. `RestService` serves it. Without ``pairing``, no node is invited."""
    app = Litestar(
        route_handlers=[
            *trigger_routes(endpoint, TriggerHandler(intake, history, max_trigger_bytes)),
            *flow_routes(flows),
            *run_routes(history),
            *node_routes(endpoint, intake, history, store_draining),
            *health_routes(intake),
            *([] if metrics is None else metrics_routes(metrics)),
            *([] if pairing is None else pair_routes(pairing)),
        ],
        exception_handlers=make_error_handlers(telemetry),
        openapi_config=OpenAPIConfig(
            title="FRACTAL Runtime Manager",
            version=__version__,
            path="/schema",
            render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"])],
        ),
        request_max_body_size=None,  # trigger_requests.read_body enforces max_trigger_bytes
        logging_config=None,
    )
    return head_as_get(app)


def head_as_get(app: ASGIApp) -> ASGIApp:
    """Answer HEAD on every path of GET (RFC 9110, 9.1). The server leaves out the content."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await app(scope, receive, send)

    return answer
