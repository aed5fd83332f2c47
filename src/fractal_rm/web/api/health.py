"""``/livez`` and ``/readyz``: health for supervisors."""

from __future__ import annotations

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from fractal_rm.engine.ports import Intake, ReadinessCheck


class ReadinessResponse(msgspec.Struct):
    """The response of ``/readyz``. ``ready``: whether every check is ok."""

    ready: bool
    checks: list[ReadinessCheck]


def health_routes(intake: Intake) -> list[HTTPRouteHandler]:
    """Make the routes of ``/livez`` and ``/readyz``."""

    @get("/livez")
    async def livez() -> dict[str, str]:
        return {"status": "ok"}

    @get("/readyz")
    async def readyz() -> Response[ReadinessResponse]:
        checks = intake.readiness()
        ready = all(check.ok for check in checks)
        return Response(ReadinessResponse(ready, checks), status_code=200 if ready else 503)

    return [livez, readyz]
