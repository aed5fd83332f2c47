"""Sign in with a token, and sign out."""

from __future__ import annotations

import msgspec
from litestar import Response, get, post
from litestar.datastructures import Cookie
from litestar.handlers import HTTPRouteHandler

from fractal_rm.domain.sessions import SESSION_MS
from fractal_rm.domain.tokens import MAX_TOKEN_TEXT
from fractal_rm.web.cookies import session_cookie
from fractal_rm.web.pages.frame.back import Back, see_other
from fractal_rm.web.pages.frame.forms import read_form, read_page_query
from fractal_rm.web.pages.frame.notices import PARAMETER, Notice
from fractal_rm.web.pages.frame.site import AnyRequest, Site
from fractal_rm.web.pages.frame.visitor import path_of, root_of
from fractal_rm.web.request_state import TOKEN_REFUSED


class SignInQuery(msgspec.Struct, frozen=True):
    """``next``: the page to show afterwards."""

    next: Back = ""


class SignIn(msgspec.Struct, frozen=True):
    """The fields of the form."""

    token: str = ""
    next: Back = ""


class Nothing(msgspec.Struct, frozen=True):
    """A form without fields."""


def sign_in_routes(site: Site) -> list[HTTPRouteHandler]:
    """Make the routes. Everybody may use them."""

    async def show_form(
        request: AnyRequest, wanted: str, refusal: str = "", status: int = 200
    ) -> Response[bytes]:
        is_remote = not site.visitor(request).may("read")
        return await site.page(
            request, "sign_in.html", status=status, next=wanted, refusal=refusal,
            is_readable=is_remote and not is_encrypted(site, request),
        )  # fmt: skip

    @get("/sign-in", opt={"query": SignInQuery})
    async def show(request: AnyRequest) -> Response[bytes]:
        query = read_page_query(request, SignInQuery)
        return await show_form(request, query.next)

    @post("/sign-in")
    async def sign_in(request: AnyRequest) -> Response[bytes]:
        form = await read_form(site, request, SignIn)
        begun = site.sessions.begin(form.token.strip()[: MAX_TOKEN_TEXT + 1])
        if isinstance(begun, str):
            refusal = "Enter a token."
            if form.token:
                request.scope["state"][TOKEN_REFUSED](begun)
                refusal = f"The token was refused: {begun}."
            return await show_form(request, form.next, refusal, status=403)
        session, _ = begun
        response = see_other(form.next, root=root_of(path_of(request)))
        response.set_cookie(_cookie(site, request, session, SESSION_MS // 1000))
        return response

    @post("/sign-out")
    async def sign_out(request: AnyRequest) -> Response[bytes]:
        _ = await read_form(site, request, Nothing)
        signed_out = f"sign-in?{PARAMETER}={Notice.SIGNED_OUT.value}"
        response = see_other(signed_out, root=root_of(path_of(request)))
        response.set_cookie(_cookie(site, request, "", 0))
        return response

    return [show, sign_in, sign_out]


def _cookie(site: Site, request: AnyRequest, session: str, max_age_s: int) -> Cookie:
    """The cookie of a session.

    It has no path: then it is sent to the paths beside that of the form, so also below the base
    path of a proxy (RFC 6265, 5.1.4). Lax, so that a link in a message opens the page.
    """
    return Cookie(
        session_cookie(site.rest.port),
        value=session,
        path=None,  # pyright: ignore[reportArgumentType]
        max_age=max_age_s,
        httponly=True,
        secure=is_encrypted(site, request),
        samesite="lax",
    )


def is_encrypted(site: Site, request: AnyRequest) -> bool:
    """Whether the browser has used HTTPS.

    Behind a proxy, the browser says so in ``Origin``. One that does not is taken to have used
    ``rest.public_url``.
    """
    if request.scope["scheme"] == "https":
        return True
    origin, public = request.headers.get("origin"), site.rest.public_url
    if origin is not None:
        return origin.startswith("https://")
    return public is not None and public.protocol == "https"
