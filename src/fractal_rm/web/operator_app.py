"""The part of the interface that not every node needs: questions, actions, live events."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from litestar.types import ASGIApp

from fractal_rm.domain.flow import Flow
from fractal_rm.engine.ports import Clock, History, Intake, PairingHost, Telemetry
from fractal_rm.web.api.actions import ActionHandlers, action_routes
from fractal_rm.web.api.bulk import bulk_routes
from fractal_rm.web.api.events import event_routes
from fractal_rm.web.api.flow_view import FlowView
from fractal_rm.web.api.flows import flow_routes
from fractal_rm.web.api.metrics import GetMetrics, metrics_routes
from fractal_rm.web.api.pair import pair_routes
from fractal_rm.web.api.questions import question_routes
from fractal_rm.web.api.resolve import ResolveHandler, resolve_routes
from fractal_rm.web.api.run_view import RunView
from fractal_rm.web.api.runs import run_routes
from fractal_rm.web.api.schema import schema_routes
from fractal_rm.web.api.status import status_routes
from fractal_rm.web.app import make_litestar, make_strict
from fractal_rm.web.operator import Operator


def make_operator_app(
    *,
    endpoint: str,
    intake: Intake,
    history: History,
    flows: Callable[[], Mapping[str, Flow]],
    clock: Clock,
    telemetry: Telemetry,
    pairing: PairingHost | None,
    operator: Operator | None,
    metrics: GetMetrics | None,
) -> ASGIApp:
    """Make the application for all paths that are not served from the start; see `make_app`."""
    runs = RunView(history, None if operator is None else operator.stories)
    flow_view = FlowView(flows)
    actions = None
    if operator is not None:
        actions = ActionHandlers(operator.actions, runs, flow_view)
    routes = [
        *flow_routes(flow_view),
        *question_routes(history, clock.now_ms),
        *run_routes(history, runs, clock.now_ms),
        *resolve_routes(ResolveHandler(intake, history, actions)),
        *schema_routes(endpoint),
        *([] if metrics is None else metrics_routes(metrics)),
        *([] if pairing is None else pair_routes(pairing)),
    ]
    if operator is not None and actions is not None:
        routes += [
            *action_routes(actions),
            *bulk_routes(operator.bulks, clock.now_ms),
            *status_routes(operator),
            *event_routes(operator.live),
        ]
    return make_litestar(telemetry, [make_strict(routes)])
