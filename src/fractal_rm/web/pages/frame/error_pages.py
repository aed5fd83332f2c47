"""Errors as pages. What they say is what the API says (`web.api.error_handlers`)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from litestar import Request, Response

from fractal_rm.web.api.error_handlers import make_error_handlers
from fractal_rm.web.pages.frame.back import back_to, see_other
from fractal_rm.web.pages.frame.site import Site
from fractal_rm.web.pages.frame.visitor import path_of, root_of
from fractal_rm.web.problems import Problem

_NOT_DONE = {
    "form-refused": "This was not done",
    "missing-scope": "You may not do this",
    "sign-in-first": "This was not done",
}


def make_error_pages(site: Site) -> dict[Any, Any]:
    """A handler for every exception that a page may raise."""
    of_api = make_error_handlers(site.telemetry)
    return {kind: _as_page(site, handle) for kind, handle in of_api.items()}


def _as_page(site: Site, handle: Any) -> Any:
    def handle_as_page(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        code = getattr(error, "code", "")
        if code == "sign-in-first" and request.method == "GET":
            return _to_sign_in(request)
        answer: Response[Problem] = handle(request, error)
        problem = answer.content
        if code in _NOT_DONE:
            problem = Problem(problem.type, _NOT_DONE[code], 403, problem.detail)
        elif problem.status == 404 and problem.detail == HTTPStatus(404).phrase:
            detail = "The node has no page at this address"
            problem = Problem(problem.type, problem.title, 404, detail)
        page = site.page_at_once(
            request, "problem.html", status=problem.status, problem=problem,
            offers_sign_in=code == "missing-scope" and request.method == "GET",
        )  # fmt: skip
        page.headers.update({k: v for k, v in answer.headers.items() if k.lower() == "allow"})
        return page

    return handle_as_page


def _to_sign_in(request: Request[Any, Any, Any]) -> Response[bytes]:
    path = path_of(request)
    wanted = back_to(path, request.scope["query_string"].decode("ascii"))
    address = "sign-in" + (f"?next={quote(wanted, safe='')}" if wanted else "")
    response = see_other(address, root=root_of(path))
    if "hx-request" in request.headers:  # htmx goes there with the whole page
        response.status_code = 200
        response.headers["HX-Redirect"] = response.headers["Location"]
    return response
