"""The ASGI application, with every path of the HTTP interface.

GET  <rest.endpoint>          what this node is, for other nodes; also GET /v1/node
POST <rest.endpoint>          a trigger in the format of the original
POST /v1/pair                 another node is joined, by the secret of an invitation
POST /v1/flows/{id}/runs      a trigger; the body is the payload
GET  /v1/flows, …/{id}        the flows that can be run
GET  /v1/runs, …/{id}         runs and their facts; also /v1/runs/count
GET  /v1/failures, /v1/dead   runs in trouble by kind of failure; dead letters
GET  /v1/minutes              how many runs were accepted and ended: the data of charts
GET  /v1/status               what each process of the node does; /v1/components, /v1/nodes
GET  /v1/config               the configuration in force and on the disk
GET  /v1/events               what changes, as it happens
POST /v1/runs/{id}/…          cancel, replay, release, discard or resolve a run
POST /v1/dead/{id}/…          send or discard a dead letter
POST /v1/flows/{id}/…         pause or resume a flow
POST /v1/bulk                 an action on many runs; GET and DELETE /v1/bulk/{id}
PUT  /v1/node/draining        begin or end to drain the node
PUT  /v1/log-level            change the level of the log
GET  /livez, /readyz          health, for supervisors
GET  /metrics                 numbers, for Prometheus
GET  /schema                  OpenAPI 3.1 description of these paths

HEAD is answered like GET, without the content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from litestar import Litestar, Router
from litestar.types import ASGIApp

from fractal_rm.domain.flow import Flow
from fractal_rm.engine.ports import Clock, History, Intake, PairingHost, Telemetry
from fractal_rm.web.api.actions import ActionHandlers, action_routes
from fractal_rm.web.api.bulk import bulk_routes
from fractal_rm.web.api.error_handlers import make_error_handlers
from fractal_rm.web.api.events import event_routes
from fractal_rm.web.api.flow_view import FlowView
from fractal_rm.web.api.flows import flow_routes
from fractal_rm.web.api.health import health_routes
from fractal_rm.web.api.metrics import GetMetrics, metrics_routes
from fractal_rm.web.api.node import node_routes
from fractal_rm.web.api.pair import pair_routes
from fractal_rm.web.api.query import check_query
from fractal_rm.web.api.questions import question_routes
from fractal_rm.web.api.resolve import ResolveHandler, resolve_routes
from fractal_rm.web.api.run_view import RunView
from fractal_rm.web.api.runs import run_routes
from fractal_rm.web.api.schema import schema_routes
from fractal_rm.web.api.status import status_routes
from fractal_rm.web.api.triggers import TriggerHandler, endpoint_routes, flow_trigger_routes
from fractal_rm.web.operator import Operator


def make_app(
    *,
    endpoint: str,
    intake: Intake,
    history: History,
    flows: Callable[[], Mapping[str, Flow]],
    max_trigger_bytes: Callable[[], int],
    clock: Clock,
    telemetry: Telemetry,
    store_draining: Callable[[bool], object],
    pairing: PairingHost | None = None,
    operator: Operator | None = None,
    metrics: GetMetrics | None = None,
) -> ASGIApp:
    """Make the application. `RestService` serves it. Without ``pairing``, no node is invited.

    Without ``operator``, there are no actions, and no live events.
    """
    triggers = TriggerHandler(intake, history, max_trigger_bytes)
    runs = RunView(history, None if operator is None else operator.stories)
    flow_view = FlowView(flows)
    actions = None
    if operator is not None:
        actions = ActionHandlers(operator.actions, runs, flow_view)
    strict = [
        *flow_trigger_routes(triggers),
        *flow_routes(flow_view),
        *question_routes(history, clock.now_ms),
        *run_routes(history, runs, clock.now_ms),
        *node_routes(intake, store_draining),
        *resolve_routes(ResolveHandler(intake, history, actions)),
        *health_routes(intake),
        *schema_routes(endpoint),
        *([] if metrics is None else metrics_routes(metrics)),
        *([] if pairing is None else pair_routes(pairing)),
    ]
    if operator is not None and actions is not None:
        strict += [
            *action_routes(actions),
            *bulk_routes(operator.bulks, clock.now_ms),
            *status_routes(operator),
            *event_routes(operator.live),
        ]
    app = Litestar(
        # The endpoint ignores parameters, as the original does.
        route_handlers=[
            *endpoint_routes(endpoint, intake, triggers),
            Router("/", guards=[check_query], route_handlers=strict),
        ],
        exception_handlers=make_error_handlers(telemetry),
        openapi_config=None,  # `web.openapi` describes the interface
        request_max_body_size=None,  # trigger_requests.read_body enforces max_trigger_bytes
        logging_config=None,
    )
    return head_as_get(app)


def head_as_get(app: ASGIApp) -> ASGIApp:
    """Answer HEAD on every path of GET (RFC 9110, 9.1). The server leaves out the content."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET", "state": {**scope["state"], "is_head": True}}
        await app(scope, receive, send)

    return answer
