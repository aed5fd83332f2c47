"""Reads what a form has sent, and checks that it was sent from a page of this node."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from fractal_rm.domain.errors import FractalError
from fractal_rm.web.api.query import read_query
from fractal_rm.web.api.trigger_requests import read_body
from fractal_rm.web.pages.notices import PARAMETER
from fractal_rm.web.pages.site import AnyRequest, Site

MAX_FORM_BYTES = 64 * 1024
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
    body = await read_body(request, max_bytes)
    _check_site(request)
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


def _check_site(request: AnyRequest) -> None:
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise NotFromHere("a page of another site has sent this form")


def _fault_of_session(site: Site, request: AnyRequest, token: str) -> NotFromHere | None:
    if site.sessions.is_form_token(site.visitor(request).session, token):
        return None
    return NotFromHere(
        "the page is from another session, perhaps because you have signed in or out since:"
        " go back, reload the page, and send the form again"
    )
