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

The pages are at ``/`` and the other paths of `web.page_paths`.

Triggers, the description of the node and health are served from the start. Everything else is in
`web.operator_app` and `web.pages`, which are imported and made at their first request: many nodes
never need them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from litestar import Litestar, Router
from litestar.types import ASGIApp

from fractal_rm.config.model import Rest
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.late_import import late_import
from fractal_rm.engine.ports import Clock, History, Intake, PairingHost, Sessions, Telemetry
from fractal_rm.web.api.error_handlers import make_error_handlers
from fractal_rm.web.api.health import health_routes
from fractal_rm.web.api.metrics import GetMetrics
from fractal_rm.web.api.node import node_routes
from fractal_rm.web.api.query import check_query
from fractal_rm.web.api.triggers import TriggerHandler, endpoint_routes, flow_trigger_routes
from fractal_rm.web.head import accepts_page
from fractal_rm.web.late_operator import LateOperator
from fractal_rm.web.page_paths import is_endpoint, is_nowhere, is_page, parts_of
from fractal_rm.web.problems import Problem, problem_app

_NOT_LOADED = "The part of the interface for operators cannot be loaded"


def make_app(
    *,
    rest: Rest,
    intake: Intake,
    history: History,
    flows: Callable[[], Mapping[str, Flow]],
    max_trigger_bytes: Callable[[], int],
    clock: Clock,
    telemetry: Telemetry,
    store_draining: Callable[[bool], object],
    pairing: PairingHost | None = None,
    operator: LateOperator | None = None,
    metrics: GetMetrics | None = None,
    sessions: Sessions | None = None,
) -> ASGIApp:
    """Make the application. `RestService` serves it. Without ``pairing``, no node is invited.

    Without ``operator``, there are no actions, and no live events. Without ``sessions``, there are
    no pages.
    """
    endpoint = rest.endpoint
    triggers = TriggerHandler(intake, history, max_trigger_bytes)
    strict = [
        *flow_trigger_routes(triggers),
        *node_routes(intake, store_draining),
        *health_routes(intake),
    ]
    # The endpoint ignores parameters, as the original does.
    at_endpoint = endpoint_routes(endpoint, intake, triggers)
    app = make_litestar(telemetry, [*at_endpoint, make_strict(strict)])

    def make_rest() -> ASGIApp:
        module: Any = late_import("fractal_rm.web.operator_app")
        return module.make_operator_app(
            endpoint=endpoint,
            intake=intake,
            history=history,
            flows=flows,
            clock=clock,
            telemetry=telemetry,
            pairing=pairing,
            operator=None if operator is None else operator.get(),
            metrics=metrics,
        )

    late = LateApp(make_rest)

    def make_pages() -> ASGIApp:
        module: Any = late_import("fractal_rm.web.pages.pages_app")
        return module.make_pages_app(
            rest=rest,
            intake=intake,
            history=history,
            operator=operator.get() if operator is not None else None,
            clock=clock,
            telemetry=telemetry,
            sessions=sessions,
        )

    pages = late if operator is None or sessions is None else LateApp(make_pages)

    async def others(scope: Any, receive: Any, send: Any) -> None:
        is_lost = is_nowhere(scope["method"], scope["path"], endpoint)
        answer = pages if is_lost and accepts_page(scope["headers"]) else late
        await answer(scope, receive, send)

    def app_of(path: str) -> ASGIApp:
        if is_served_from_start(endpoint, path):
            return app
        return pages if is_page(path, endpoint) else others

    return head_as_get(app_of)


def make_strict(routes: list[Any]) -> Router:
    """Routes that refuse parameters which they do not have."""
    return Router("/", guards=[check_query], route_handlers=routes)


def make_litestar(telemetry: Telemetry, routes: list[Any]) -> ASGIApp:
    """An application with these routes."""
    return Litestar(
        route_handlers=routes,
        exception_handlers=make_error_handlers(telemetry),
        openapi_config=None,  # `web.openapi` describes the interface
        request_max_body_size=None,  # trigger_requests.read_body enforces max_trigger_bytes
        logging_config=None,
    )


def is_served_from_start(endpoint: str, path: str) -> bool:
    """Whether a path is one of those that are served from the start."""
    if path == endpoint:  # a fast path: most requests are triggers
        return True
    parts = parts_of(path)
    if parts[:2] == ["v1", "flows"]:
        return parts[3:] == ["runs"]
    is_known = parts[:2] == ["v1", "node"] or parts in (["livez"], ["readyz"])
    return is_known or is_endpoint(path, endpoint)


class LateApp:
    """An application that is made at its first request, in a thread."""

    def __init__(self, make: Callable[[], ASGIApp]) -> None:
        self._make = make
        self._app: ASGIApp | None = None
        self._making = asyncio.Lock()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""
        async with self._making:
            if self._app is None:
                try:
                    self._app = await asyncio.to_thread(self._make)
                except OSError as error:  # no file descriptor is free
                    problem = Problem("about:blank", _NOT_LOADED, 503, str(error))
                    await problem_app(problem)(scope, receive, send)
                    return
        await self._app(scope, receive, send)


def head_as_get(app_of: Callable[[str], ASGIApp]) -> ASGIApp:
    """Answer HEAD on every path of GET (RFC 9110, 9.1). The server leaves out the content.

    ``app_of`` returns the application that serves a path.
    """

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET", "state": {**scope["state"], "is_head": True}}
        await app_of(scope["path"])(scope, receive, send)

    return answer
