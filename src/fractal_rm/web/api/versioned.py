"""Responses with an `ETag`, which a client can ask for again cheaply (RFC 9110, 8.8.3)."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.enums import MediaType

from fractal_rm.web.api.action_requests import is_not_modified


def etag_of(body: bytes) -> str:
    """The ETag of a response: a digest of its content."""
    return f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'


def versioned(request: Request[Any, Any, Any], value: object) -> Response[bytes]:
    """The response for ``value`` with its ETag; 304 if the client has it already.

    What a client may see depends on its token, so a cache that several clients use must not store
    the response.
    """
    body = msgspec.json.encode(value)
    etag = etag_of(body)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache", "Vary": "Authorization"}
    if is_not_modified(request, etag):
        return Response(b"", status_code=304, headers=headers, media_type=MediaType.JSON)
    return Response(body, headers=headers, media_type=MediaType.JSON)
