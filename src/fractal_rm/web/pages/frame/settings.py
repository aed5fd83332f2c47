"""How pages are shown in this browser: the time zone and the colours."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Response, post
from litestar.datastructures import Cookie
from litestar.handlers import HTTPRouteHandler

from fractal_rm.web.pages.frame.back import Back, see_other
from fractal_rm.web.pages.frame.forms import read_form
from fractal_rm.web.pages.frame.site import AnyRequest, Site
from fractal_rm.web.pages.frame.text_filters import Zone
from fractal_rm.web.pages.frame.visitor import path_of, root_of

YEAR_S = 365 * 86_400


class Settings(msgspec.Struct, frozen=True):
    """The fields of the form. A field that is not sent is not changed."""

    zone: Zone | None = None
    theme: Annotated[str, msgspec.Meta(pattern="^(light|dark|auto)$")] | None = None
    back: Back = ""


def settings_routes(site: Site) -> list[HTTPRouteHandler]:
    """Make the route. Everybody may set this for their own browser."""

    @post("/settings")
    async def change(request: AnyRequest) -> Response[bytes]:
        settings = await read_form(site, request, Settings)
        response = see_other(settings.back, root=root_of(path_of(request)))
        if settings.zone is not None:
            response.set_cookie(_cookie("zone", settings.zone.value))
        if settings.theme is not None:
            response.set_cookie(_cookie("theme", settings.theme))
        return response

    return [change]


def _cookie(name: str, value: str) -> Cookie:
    return Cookie(name, value=value, path=None, max_age=YEAR_S, samesite="lax", httponly=True)  # pyright: ignore[reportArgumentType]
