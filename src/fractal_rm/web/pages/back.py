"""Where a browser goes after a form: addresses of pages, relative to the root."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Response

# A page of this node with its query, relative to the root: it can name no other site.
Back = Annotated[
    str, msgspec.Meta(max_length=2_000, pattern=r"^([a-z][A-Za-z0-9._~/?&=%+:,-]*)?\Z")
]


def see_other(address: str, *, root: str = "./") -> Response[bytes]:
    """A redirect to a page. ``root`` is the root of the pages, relative to the request."""
    headers = {"Location": root + address, "Cache-Control": "no-store"}
    return Response(b"", status_code=303, headers=headers)
