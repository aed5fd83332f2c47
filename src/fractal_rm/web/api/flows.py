"""``/v1/flows``: the flows of the configuration in force."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from litestar import get
from litestar.handlers import HTTPRouteHandler

from fractal_rm.domain.flow import Flow


def flow_routes(flows: Callable[[], Mapping[str, Flow]]) -> list[HTTPRouteHandler]:
    """Make the routes of ``/v1/flows``."""

    @get("/v1/flows", summary="The flows that can be run")
    async def list_flows() -> list[Flow]:
        return list(flows().values())

    return [list_flows]
