"""``GET <rest.endpoint>`` and ``GET /v1/node``: what this node is."""

from __future__ import annotations

from litestar import get
from litestar.handlers import HTTPRouteHandler

from fractal_rm.domain.node_description import NodeDescription
from fractal_rm.engine.ports import Intake


def node_routes(endpoint: str, intake: Intake) -> list[HTTPRouteHandler]:
    """Make the routes by which other nodes ask what this node is."""

    @get([endpoint, "/v1/node"], summary="What this node is, for other nodes and for people")
    async def describe_node() -> NodeDescription:
        return intake.describe()

    return [describe_node]
