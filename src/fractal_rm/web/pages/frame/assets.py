"""The files that pages load: the style sheet, the scripts and pictures. All are in this package.

Their paths contain a digest of their content, so browsers may keep them for ever.
"""

from __future__ import annotations

import gzip
import hashlib
from functools import cached_property
from importlib.resources import files
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler

KINDS = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8",
         "svg": "image/svg+xml"}  # fmt: skip
FOLDER = "assets"
_FOR_EVER = "public, max-age=31536000, immutable"


class Asset(msgspec.Struct, frozen=True):
    """A file, as it is and compressed. ``digest`` is part of its path."""

    name: str
    kind: str
    content: bytes
    compressed: bytes
    digest: str


class Assets:
    """The files of the folder ``assets``. They are read at the first use."""

    @cached_property
    def _by_name(self) -> dict[str, Asset]:
        folder = files("fractal_rm.web.pages") / FOLDER
        found = [each for each in folder.iterdir() if each.name.rpartition(".")[2] in KINDS]
        return {each.name: _asset(each.name, each.read_bytes()) for each in found}

    @cached_property
    def release(self) -> str:
        """A digest of all files: pages that were loaded with other files are too old."""
        digests = [asset.digest for _, asset in sorted(self._by_name.items())]
        return hashlib.sha256("".join(digests).encode()).hexdigest()[:12]

    def path_of(self, name: str) -> str:
        """The path of a file, relative to the root of the pages."""
        return f"static/{self._by_name[name].digest}/{name}"

    def get(self, name: str) -> Asset | None:
        """A file, or None."""
        return self._by_name.get(name)


def _asset(name: str, content: bytes) -> Asset:
    digest = hashlib.sha256(content).hexdigest()[:12]
    kind = KINDS[name.rpartition(".")[2]]
    return Asset(name, kind, content, gzip.compress(content, 9, mtime=0), digest)


def asset_routes(assets: Assets) -> list[HTTPRouteHandler]:
    """Make the route of assets. Everybody may read them."""

    @get("/static/{digest:str}/{name:str}")
    async def read(request: Request[Any, Any, Any]) -> Response[bytes]:
        asset = assets.get(request.path_params["name"])
        if asset is None or asset.digest != request.path_params["digest"]:
            raise HTTPException(status_code=404, detail="this release has no such file")
        headers = {"Cache-Control": _FOR_EVER, "X-Content-Type-Options": "nosniff",
                   "Vary": "Accept-Encoding"}  # fmt: skip
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return Response(asset.content, headers=headers, media_type=asset.kind)
        headers["Content-Encoding"] = "gzip"
        return Response(asset.compressed, headers=headers, media_type=asset.kind)

    return [read]
