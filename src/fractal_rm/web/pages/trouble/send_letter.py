"""Sends the message of a dead letter again: as it was, or edited. The original is kept."""

from __future__ import annotations

import msgspec
from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler

from fractal_rm.domain.actions import ActionDone, ActionRefused, NotPossible
from fractal_rm.domain.possible_actions import Offer
from fractal_rm.web.api.action_options import SendOptions
from fractal_rm.web.api.action_requests import act_once
from fractal_rm.web.pages.actions.asked import RequestKey, do, new_key, refused, subject_of
from fractal_rm.web.pages.actions.run_actions import ask_about, result_of
from fractal_rm.web.pages.actions.subject import Subject
from fractal_rm.web.pages.frame.forms import read_form
from fractal_rm.web.pages.frame.site import AnyRequest, Site
from fractal_rm.web.pages.trouble.dead import letter_of
from fractal_rm.web.pages.trouble.letters import MAX_EDITED, Checked, check_message, editable

MAX_FORM = 3 * MAX_EDITED + 4096  # each byte may be percent-encoded


class SendForm(msgspec.Struct, frozen=True):
    """The form that sends a message as it was."""

    request: RequestKey
    again: bool = False


class EditForm(msgspec.Struct, frozen=True):
    """The form that sends an edited message. ``check``: only check it."""

    request: RequestKey
    message: str = ""
    again: bool = False
    check: bool = False


def send_routes(site: Site) -> list[HTTPRouteHandler]:
    """Make the routes. `page_paths` says who may send the forms."""

    @get("/dead/{run_id:str}/send")
    async def ask(request: AnyRequest) -> Response[bytes]:
        return await ask_about(site, request, await subject_of(site, request), Offer.SEND)

    @post("/dead/{run_id:str}/send")
    async def send(request: AnyRequest) -> Response[bytes]:
        form = await read_form(site, request, SendForm)
        action = SendOptions(again=form.again).to_action(request.path_params["run_id"])
        done = await do(site, request, action, form.request)
        return done if isinstance(done, Response) else result_of(request, done, Offer.SEND)

    @get("/dead/{run_id:str}/edit")
    async def edit(request: AnyRequest) -> Response[bytes]:
        return await _editor(site, request, await subject_of(site, request))

    @post("/dead/{run_id:str}/edit")
    async def send_edited(request: AnyRequest) -> Response[bytes]:
        form = await read_form(site, request, EditForm, MAX_FORM)
        subject = await subject_of(site, request)
        checked = _checked(site, subject, form.message)
        if form.check or not checked.is_ok:
            status = 200 if checked.is_ok else 422
            return await _editor(site, request, subject, form, checked, status)
        action = SendOptions(body=form.message, again=form.again).to_action(subject.summary.id)
        try:
            done: ActionDone = await act_once(site.operator.actions, request, action, form.request)
        except NotPossible as error:  # the text is kept, so that it can be mended
            wrong = Checked(False, error.title, error.reason)
            return await _editor(site, request, subject, form, wrong, error.status)
        except ActionRefused as error:
            return await refused(site, request, error)
        return result_of(request, done, Offer.EDIT)

    return [ask, send, edit, send_edited]


def _checked(site: Site, subject: Subject, message: str) -> Checked:
    config = site.config()
    return check_message(
        letter_of(subject), message.encode(), config.flows, config.bounds.max_trigger_bytes
    )


async def _editor(
    site: Site,
    request: AnyRequest,
    subject: Subject,
    form: EditForm | None = None,
    checked: Checked | None = None,
    status: int = 200,
) -> Response[bytes]:
    letter = letter_of(subject)
    may_see = site.visitor(request).may("payload")
    original = editable(letter.body) if may_see else ""
    text = form.message if form is not None else original
    if checked is None and text:
        checked = _checked(site, subject, text)
    return await site.page(
        request, "edit_letter.html", status=status, run=subject.summary, letter=letter,
        text=editable((text or "").encode()), is_text=original is not None, may_see=may_see,
        checked=checked, key=new_key() if form is None else form.request,
        again=subject.handled is not None,
    )  # fmt: skip
