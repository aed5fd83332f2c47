"""Does what the form of a page asks, once for each page; a refusal becomes a page."""

from __future__ import annotations

import asyncio
import secrets
from typing import Annotated

import msgspec
from litestar import Response
from litestar.exceptions import HTTPException

from fractal_rm.domain.actions import (
    ActionDone,
    ActionRefused,
    AlreadyHandled,
    AnyAction,
    CannotActNow,
)
from fractal_rm.engine.ports import RunSummary
from fractal_rm.web.api.action_requests import act_once
from fractal_rm.web.pages.actions.subject import Subject, read_subject
from fractal_rm.web.pages.frame.back import see_other
from fractal_rm.web.pages.frame.notices import PARAMETER, Notice
from fractal_rm.web.pages.frame.site import AnyRequest, Site
from fractal_rm.web.pages.frame.text_filters import Zone
from fractal_rm.web.pages.frame.visitor import root_of
from fractal_rm.web.problems import headers_of

# Made for one page. Whoever presses its button twice asks for one thing.
RequestKey = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
RunId = Annotated[str, msgspec.Meta(max_length=64)]


def zone_of(request: AnyRequest) -> Zone:
    """The time zone of the pages in this browser."""
    return Zone.of(request.cookies.get("zone", ""))


def new_key() -> str:
    """The request id of a page."""
    return secrets.token_hex(16)


async def subject_of(site: Site, request: AnyRequest) -> Subject:
    """The run that the path names. Raises HTTPException."""
    run_id: str = request.path_params["run_id"]
    shows_values = site.visitor(request).may("payload")
    subject = await asyncio.to_thread(
        read_subject, site, run_id, zone_of(request), shows_values=shows_values
    )
    if subject is None:
        raise no_such_run(run_id)
    return subject


def no_such_run(run_id: str) -> HTTPException:
    """The answer if no journal has a run."""
    return HTTPException(
        status_code=404,
        detail=f"No journal of this node has a run {run_id[:40]}. Perhaps it was too old, and was"
        " deleted (history.max_age_s).",
    )


async def do(
    site: Site, request: AnyRequest, action: AnyAction, key: str
) -> ActionDone | Response[bytes]:
    """Do an action; the result, or the page with the refusal."""
    try:
        return await act_once(site.operator.actions, request, action, key)
    except ActionRefused as error:
        return await refused(site, request, error)


async def refused(site: Site, request: AnyRequest, error: ActionRefused) -> Response[bytes]:
    """The page that says why an action was not done, how the run is, and what can be done."""
    run: RunSummary | None = None
    if error.run:
        subject = await asyncio.to_thread(
            read_subject, site, error.run, zone_of(request), shows_values=False
        )
        run = None if subject is None else subject.summary
    # The reason of this refusal names an option of the command; the page has a link instead.
    is_handled = isinstance(error, AlreadyHandled) and run is not None and run.handled is not None
    page = await site.page(
        request,
        "refused.html",
        status=error.status,
        title=error.title,
        reason="" if is_handled else error.reason,
        run=run,
        new_run=error.new_run,
        may_try_again=isinstance(error, CannotActNow),
    )
    page.headers.update(headers_of(error.status))
    return page


def gone_to(request: AnyRequest, path: str, notice: Notice) -> Response[bytes]:
    """A redirect to a page that says what was done."""
    return see_other(f"{path}?{PARAMETER}={notice.value}", root=root_of(request.url.path))
