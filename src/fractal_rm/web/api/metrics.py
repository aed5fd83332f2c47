"""``/metrics``: the numbers of the node, for Prometheus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
GetMetrics = Callable[[], Awaitable[bytes]]


def metrics_routes(exposition: GetMetrics) -> list[HTTPRouteHandler]:
    """Make the route of ``/metrics``. ``exposition`` returns the numbers as text."""

    @get("/metrics", media_type=CONTENT_TYPE)
    async def metrics() -> Response[bytes]:
        return Response(await exposition(), media_type=CONTENT_TYPE)

    return [metrics]
