"""``/schema``: the description of the HTTP interface as OpenAPI 3.1."""

from __future__ import annotations

import asyncio
from functools import cache

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

MEDIA = "application/vnd.oai.openapi+json"


def schema_routes(endpoint: str) -> list[HTTPRouteHandler]:
    """Make the routes of ``/schema``. ``endpoint`` is that of `Rest.endpoint`."""

    @cache
    def document() -> bytes:
        # Made only if somebody asks for it: it takes time and memory.
        from fractal_rm.web.openapi import openapi_document  # noqa: PLC0415

        return msgspec.json.encode(openapi_document(endpoint))

    @get(["/schema", "/schema/openapi.json"])
    async def describe() -> Response[bytes]:
        return Response(await asyncio.to_thread(document), media_type=MEDIA)

    return [describe]
