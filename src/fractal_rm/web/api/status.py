"""What the node does now, and its configuration: status, components, nodes."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, Response, get, put
from litestar.handlers import HTTPRouteHandler

from fractal_rm.adapters.local_socket.other_processes import Statuses
from fractal_rm.config.model import Component, Node
from fractal_rm.domain.gate_rule import GateRule
from fractal_rm.domain.log_level import LOG_LEVELS
from fractal_rm.domain.node_status import ComponentStatus, NodeStatus
from fractal_rm.web.api.action_requests import read_body_as
from fractal_rm.web.api.versioned import versioned
from fractal_rm.web.config_check import ConfigCheck
from fractal_rm.web.operator import Operator


class ComponentView(msgspec.Struct, frozen=True):
    """A component, and its state in each process that calls it, by the name of the journal.

    ``rule``: how many calls may be in flight or begin in a time, and when the circuit opens.
    """

    component: str
    idempotent: bool
    rule: GateRule | None
    endpoints: list[str]
    now: dict[str, ComponentStatus]


class ComponentsResponse(msgspec.Struct, frozen=True):
    """All components of components.conf."""

    components: list[ComponentView]


class LevelResponse(msgspec.Struct, frozen=True):
    """The level of the log. ``silent``: journals of the processes that did not change theirs."""

    level: str
    silent: list[str]


class NodeView(msgspec.Struct, frozen=True):
    """An entry of nodes.conf. ``peer`` is ``fractal``, ``original``, or null if it is not set."""

    node: str
    url: str
    peer: str | None
    rule: GateRule | None


class NodesResponse(msgspec.Struct, frozen=True):
    """All nodes of nodes.conf, as this node knows them. ``own`` is the id of this node."""

    own: str | None
    nodes: list[NodeView]


_LEVELS = "the body must be " + " or ".join(f'"{level}"' for level in LOG_LEVELS)


def status_routes(operator: Operator) -> list[HTTPRouteHandler]:
    """Make the routes. `web.access` has checked the scope ``read``."""
    configuration = operator.configuration

    @get("/v1/status")
    async def status() -> Statuses:
        return await operator.processes.statuses()

    @get("/v1/components")
    async def components() -> ComponentsResponse:
        processes = (await operator.processes.statuses()).processes
        named = configuration.config().components.values()
        return ComponentsResponse([_component(each, processes) for each in named])

    @get("/v1/nodes")
    async def nodes() -> NodesResponse:
        config = configuration.config()
        return NodesResponse(config.node_id, [_node(each) for each in config.nodes.values()])

    @put("/v1/log-level")
    async def set_log_level(request: Request[Any, Any, Any]) -> LevelResponse:
        level = await read_body_as(request, str, _LEVELS)
        return LevelResponse(level, await operator.processes.set_log_level(level))

    return [status, components, nodes, set_log_level, *config_routes(configuration)]


def config_routes(configuration: ConfigCheck) -> list[HTTPRouteHandler]:
    """Make the route of ``/v1/config``."""

    @get("/v1/config")
    async def show(request: Request[Any, Any, Any]) -> Response[bytes]:
        return versioned(request, await configuration.view())

    return [show]


def _component(component: Component, processes: list[NodeStatus]) -> ComponentView:
    now = {
        process.journal: each
        for process in processes
        for each in process.components
        if each.component == component.name
    }
    return ComponentView(
        component.name, component.idempotent, component.gate, list(component.endpoints), now
    )


def _node(node: Node) -> NodeView:
    return NodeView(node.id, node.url, node.peer, node.gate)
