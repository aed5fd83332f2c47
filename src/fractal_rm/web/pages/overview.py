"""The overview says whether the node is well, and if not, since when."""

from __future__ import annotations

from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from fractal_rm.web.pages.site import AnyRequest, Site


def overview_routes(site: Site) -> list[HTTPRouteHandler]:
    """Make the route of the overview."""

    @get("/")
    async def show(request: AnyRequest) -> Response[bytes]:
        statuses = await site.operator.processes.statuses()
        return await site.page(request, "overview.html", statuses=statuses)

    return [show]
