"""``/v1/pair``: another node is joined with this node, by an invitation."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import Request, post
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler

from fractal_rm.domain.pairing import INVITED, PAIR_PATH, PairAnswer, PairRequest
from fractal_rm.domain.refusals import WrongShape
from fractal_rm.domain.strict_json import read_json_as
from fractal_rm.engine.ports import PairingHost
from fractal_rm.web.api.identity import identity_of
from fractal_rm.web.api.trigger_requests import check_content_type, read_body
from fractal_rm.web.authorization import bearer_token

MAX_BYTES = 64 * 1024


def pair_routes(host: PairingHost) -> list[HTTPRouteHandler]:
    """Make the route of ``/v1/pair``. Only the sender of an invitation's secret may use it."""
    one_at_a_time = asyncio.Lock()

    @post(PAIR_PATH, status_code=200)
    async def pair(request: Request[Any, Any, Any]) -> PairAnswer:
        if identity_of(request) is not INVITED:
            raise NotFoundException
        check_content_type(request)
        body = await read_body(request, MAX_BYTES)
        try:
            content = read_json_as(body, PairRequest)
        except msgspec.ValidationError as error:
            raise WrongShape(str(error)) from None
        header = request.headers.get("authorization", "").encode("latin-1")
        secret = bearer_token([header]) or ""
        async with one_at_a_time:
            return await asyncio.to_thread(host.accept, secret, content)

    return [pair]
