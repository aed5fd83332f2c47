"""Actions on one run and on one dead letter: a page asks, its form acts, the result is shown."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler

from fractal_rm.domain.actions import ActionDone, AnyAction, DecideOffer, DecideStep, Release
from fractal_rm.domain.handoff.sender import Decision
from fractal_rm.domain.possible_actions import Offer
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.state import State
from fractal_rm.domain.story import step_rows
from fractal_rm.domain.strict_json import check_json
from fractal_rm.web.api.action_options import (
    MAX_MESSAGE_BYTES,
    CancelOptions,
    DiscardOptions,
    ReplayOptions,
)
from fractal_rm.web.pages.actions.asked import RequestKey, do, gone_to, new_key, subject_of
from fractal_rm.web.pages.actions.questions import question_about
from fractal_rm.web.pages.actions.replay_question import NOTHING_CHOSEN, ReplayQuery
from fractal_rm.web.pages.actions.subject import Subject
from fractal_rm.web.pages.frame.forms import read_form, read_page_query
from fractal_rm.web.pages.frame.notices import Notice
from fractal_rm.web.pages.frame.site import AnyRequest, Site

MAX_STEPS = 40  # shown


class CancelForm(CancelOptions, frozen=True, kw_only=True):
    """The form that cancels a run."""

    request: RequestKey


class ReplayForm(ReplayOptions, frozen=True, kw_only=True):
    """The form that repeats a run."""

    request: RequestKey


class DiscardForm(DiscardOptions, frozen=True, kw_only=True):
    """The form that marks a run or a dead letter."""

    request: RequestKey


class ReleaseForm(msgspec.Struct, frozen=True):
    """The form that releases a parked run."""

    request: RequestKey

    def to_action(self, run_id: str) -> Release:
        """The action on a run."""
        return Release(run_id)


class DecideOfferForm(msgspec.Struct, frozen=True):
    """The form that decides an offer in doubt."""

    request: RequestKey
    decision: Decision

    def to_action(self, run_id: str) -> DecideOffer:
        """The action on a run."""
        return DecideOffer(run_id, self.decision)


class DecideStepForm(msgspec.Struct, frozen=True):
    """The form that decides a step in doubt. ``result`` is JSON."""

    request: RequestKey
    done: bool
    result: str = ""
    again: bool = False

    def to_action(self, run_id: str) -> DecideStep:
        """The action on a run. Raises Malformed."""
        text = self.result.strip() if self.done else ""
        content = (text or "null").encode()
        try:
            check_json(content)
        except Malformed as error:
            raise Malformed(f"the result is not JSON: {error}") from None
        return DecideStep(run_id, self.done, msgspec.Raw(content), self.again)


_FORMS: dict[Offer, Any] = {
    Offer.CANCEL: CancelForm,
    Offer.REPLAY: ReplayForm,
    Offer.RELEASE: ReleaseForm,
    Offer.DISCARD: DiscardForm,
    Offer.DECIDE_OFFER: DecideOfferForm,
    Offer.DECIDE_STEP: DecideStepForm,
}
_LETTER_FORMS: dict[Offer, Any] = {Offer.DISCARD: DiscardForm}


def run_action_routes(site: Site) -> list[HTTPRouteHandler]:
    """Make the routes of actions on one run. `page_paths` says who may send the forms."""
    routes: list[HTTPRouteHandler] = []
    for offer, form in _FORMS.items():
        routes += _routes(site, f"/runs/{{run_id:str}}/{offer.value}", offer, form)
    for offer, form in _LETTER_FORMS.items():
        routes += _routes(site, f"/dead/{{run_id:str}}/{offer.value}", offer, form)
    return routes


def _routes(site: Site, path: str, offer: Offer, form: Any) -> list[HTTPRouteHandler]:
    @get(path)
    async def ask(request: AnyRequest) -> Response[bytes]:
        chosen = NOTHING_CHOSEN
        if offer is Offer.REPLAY:
            chosen = read_page_query(request, ReplayQuery)
        subject = await subject_of(site, request)
        return await ask_about(site, request, subject, offer, replay=chosen)

    @post(path)
    async def act(request: AnyRequest) -> Response[bytes]:
        run_id: str = request.path_params["run_id"]
        asked = await read_form(site, request, form, MAX_MESSAGE_BYTES)
        try:
            action: AnyAction = asked.to_action(run_id)
        except Malformed as error:
            subject = await subject_of(site, request)
            return await ask_about(site, request, subject, offer, fault=str(error), given=asked)
        done = await do(site, request, action, asked.request)
        return done if isinstance(done, Response) else result_of(request, done, offer)

    return [ask, act]


async def ask_about(
    site: Site,
    request: AnyRequest,
    subject: Subject,
    offer: Offer,
    *,
    fault: str = "",
    given: Any = None,
    replay: ReplayQuery = NOTHING_CHOSEN,
) -> Response[bytes]:
    """The page that asks. ``fault``: what is wrong in the form that was sent, ``given``."""
    question = question_about(subject, offer, replay)
    status = 409 if question.obstacle else 422 if fault else 200
    values: dict[str, Any] = {} if given is None else msgspec.to_builtins(given)
    return await site.page(
        request, "ask.html", status=status, question=question, run=subject.summary,
        why=subject.story.why, key=new_key() if given is None else given.request, fault=fault,
        given={name: _text(value) for name, value in values.items()},
        is_letter=subject.letter is not None,
        steps=[] if subject.letter is not None else step_rows(subject.told)[:MAX_STEPS],
    )  # fmt: skip


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value or "")


def result_of(request: AnyRequest, done: ActionDone, offer: Offer) -> Response[bytes]:
    """The redirect to the run, or to the new run."""
    if done.new_run is not None:
        notice = _NEW_RUN[offer]
        if notice is Notice.REPLAYED and done.flow_changed:
            notice = Notice.REPLAYED_OLD_FLOW
        return gone_to(request, f"runs/{done.new_run}", notice)
    notice = _SAME_RUN[offer]
    if offer is Offer.CANCEL and done.state is not State.CANCELLED:
        notice = Notice.CANCELLING
    folder = request.url.path.split("/")[1]
    return gone_to(request, f"{folder}/{done.run}", notice)


_NEW_RUN = {
    Offer.REPLAY: Notice.REPLAYED,
    Offer.DECIDE_STEP: Notice.GOES_ON,
    Offer.SEND: Notice.SENT,
    Offer.EDIT: Notice.SENT,
}
_SAME_RUN = {
    Offer.CANCEL: Notice.CANCELLED,
    Offer.RELEASE: Notice.RELEASED,
    Offer.DISCARD: Notice.DISCARDED,
    Offer.DECIDE_OFFER: Notice.DECIDED,
}
