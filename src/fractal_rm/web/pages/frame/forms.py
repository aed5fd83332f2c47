"""Reads what a form has sent, and checks that it was sent from a page of this node."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.form_origin import sent_from_here
from fractal_rm.web.api.query import BadParameter, read_query
from fractal_rm.web.api.trigger_requests import read_body
from fractal_rm.web.page_paths import is_open_page
from fractal_rm.web.pages.frame.notices import PARAMETER
from fractal_rm.web.pages.frame.site import AnyRequest, Site

MAX_FORM_BYTES = 64 * 1024
FORM_TYPE = "application/x-www-form-urlencoded"
TOKEN_FIELD = "form_token"  # noqa: S105 - the name of a field
T = TypeVar("T", bound=msgspec.Struct)


class NotFromHere(FractalError):
    """A form was not sent from a page of this node, or the session of the page has ended."""

    code = "form-refused"


async def read_form(
    site: Site, request: AnyRequest, kind: type[T], max_bytes: int = MAX_FORM_BYTES
) -> T:
    """The fields of a form as a value of ``kind``. Empty fields are left out.

    Raises NotFromHere, BadParameter and Refused.
    """
    form, fault = await read_form_of_site(site, request, kind, max_bytes)
    if fault is not None:
        raise fault
    return form


async def read_form_of_site(
    site: Site, request: AnyRequest, kind: type[T], max_bytes: int
) -> tuple[T, NotFromHere | None]:
    """The same, for a form whose content must not be lost with the session of its page.

    The fault says that the page was from another session: do nothing, and show the content again.
    Raises NotFromHere if a page of another site has sent the form, BadParameter and Refused.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != FORM_TYPE:
        raise BadParameter(f"the content type of a form is {FORM_TYPE}")
    body = await read_body(request, max_bytes)
    _check_sender(site, request)
    fields = filled(body)
    token = next((text for name, text in fields if name == TOKEN_FIELD.encode()), b"")
    others = [(name, text) for name, text in fields if name != TOKEN_FIELD.encode()]
    form = read_query(b"&".join(name + b"=" + text for name, text in others), kind)
    return form, _fault_of_session(site, request, token.decode("latin-1"))


def read_page_query(request: AnyRequest, kind: type[T]) -> T:
    """The query of a page as a value of ``kind``, without empty fields and its notice.

    Raises BadParameter.
    """
    fields = filled(request.scope["query_string"])
    kept = [name + b"=" + text for name, text in fields if name != PARAMETER.encode()]
    return read_query(b"&".join(kept), kind)


def filled(text: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of a form that are filled in, as names and percent-encoded values.

    Browsers send every field of a form, also the empty ones.
    """
    pairs = [part.partition(b"=") for part in text.split(b"&")]
    return [(name, value) for name, _, value in pairs if value]


def _check_sender(site: Site, request: AnyRequest) -> None:
    headers, public = request.headers, site.rest.public_url
    from_here = sent_from_here(
        headers.get("sec-fetch-site"),
        headers.get("origin"),
        headers.get("host", ""),
        None if public is None else public.key,
    )
    if from_here is False:
        raise NotFromHere("a page of another site has sent this form")
    visitor = site.visitor(request)
    # Without a session, the form token is the same for everybody, so anybody could know it.
    if not (from_here or visitor.is_signed_in or is_open_page(request.scope["path"])):
        raise NotFromHere("this browser does not say which page has sent the form: sign in first")


def _fault_of_session(site: Site, request: AnyRequest, token: str) -> NotFromHere | None:
    if site.sessions.is_form_token(site.visitor(request).session, token):
        return None
    return NotFromHere(
        "the page is from another session, perhaps because you have signed in or out since:"
        " go back, reload the page, and send the form again"
    )
