"""Where a browser goes after a form: addresses of pages, relative to the root."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from litestar import Response

MAX_BACK = 2_000
# A page of this node with its query, relative to the root, as it is in a request. It can name no
# other site, and nothing above the root: browsers take %2e for a dot.
_BACK = r"^(?![^?]*(\.|%2[eE]){2})([a-z][A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?\Z"
Back = Annotated[str, msgspec.Meta(max_length=MAX_BACK, pattern=_BACK)]


def back_to(path: str, query: str) -> str:
    """The page with this path and query, as they are in its request, as a `Back`.

    Empty, and so the overview, if it cannot be one.
    """
    address = path.lstrip("/") + (f"?{query}" if query else "")
    return address if len(address) <= MAX_BACK and re.match(_BACK, address) else ""


def see_other(address: str, *, root: str = "./") -> Response[bytes]:
    """A redirect to a page. ``root`` is the root of the pages, relative to the request."""
    headers = {"Location": root + address, "Cache-Control": "no-store"}
    return Response(b"", status_code=303, headers=headers)
