"""``/v1/node``: what the node is, and whether it drains."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from litestar import Request, Response, get, put
from litestar.handlers import HTTPRouteHandler

from fractal_rm.config.control import ControlNotWritten
from fractal_rm.domain.handoff.messages import CODE_PREFIX
from fractal_rm.domain.node_description import NodeDescription
from fractal_rm.engine.ports import Intake
from fractal_rm.web.api.action_requests import read_body_as
from fractal_rm.web.problems import MEDIA_TYPE, Problem

StoreDraining = Callable[[bool], object]


def node_routes(intake: Intake, store_draining: StoreDraining) -> list[HTTPRouteHandler]:
    """Make the routes. ``store_draining`` writes to the disk whether the node drains.

    `web.access` has checked the scope of each request before its handler is called.
    """

    @get("/v1/node")
    async def describe() -> NodeDescription:
        return intake.describe()

    @put("/v1/node/draining")
    async def drain(request: Request[Any, Any, Any]) -> Response[NodeDescription | Problem]:
        draining = await read_body_as(request, bool, "the body must be true or false")
        try:
            await asyncio.to_thread(store_draining, draining)
        except ControlNotWritten as error:
            return _problem(
                Problem(CODE_PREFIX + error.code, "Nothing was changed", 503, str(error))
            )
        intake.set_draining(draining)
        return Response(intake.describe())

    return [describe, drain]


def _problem(problem: Problem) -> Response[Any]:
    return Response(problem, status_code=problem.status, media_type=MEDIA_TYPE)
