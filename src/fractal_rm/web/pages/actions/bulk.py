"""Actions on all runs that match conditions: a page asks, another one shows the progress."""

from __future__ import annotations

import asyncio

import msgspec
from litestar import Response, get, post
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler

from fractal_rm.domain.actions import ActionRefused, BulkRequest
from fractal_rm.web.api.bulk import NOT_KEPT
from fractal_rm.web.api.identity import identity_of
from fractal_rm.web.bulks import Bulk
from fractal_rm.web.pages.actions.asked import gone_to, new_key, refused, zone_of
from fractal_rm.web.pages.actions.bulk_form import BulkForm, BulkQuery
from fractal_rm.web.pages.actions.bulk_question import ask_about_many
from fractal_rm.web.pages.actions.bulk_result import OPEN, left_ms, new_runs
from fractal_rm.web.pages.actions.bulk_words import words_for, words_of_bulk
from fractal_rm.web.pages.actions.filter_links import words_of
from fractal_rm.web.pages.frame.forms import read_form, read_page_query
from fractal_rm.web.pages.frame.notices import Notice
from fractal_rm.web.pages.frame.site import AnyRequest, Site


class StopForm(msgspec.Struct, frozen=True):
    """The form that stops an action: it has no fields."""


def bulk_routes(site: Site) -> list[HTTPRouteHandler]:
    """Make the routes. `page_paths` says who may send the forms."""
    bulks = site.operator.bulks

    @get("/bulk")
    async def show_all(request: AnyRequest) -> Response[bytes]:
        return await site.page(
            request, "bulks.html", bulks=bulks.newest_first(), words=words_of_bulk
        )

    @get("/bulk/new")
    async def ask(request: AnyRequest) -> Response[bytes]:
        query = read_page_query(request, BulkQuery)
        now_ms = site.clock.now_ms()
        question = await asyncio.to_thread(ask_about_many, site, query, now_ms)
        return await site.page(
            request, "bulk_new.html", status=422 if question.obstacle else 200, query=query,
            question=question, key=new_key(),
            words=words_for(query.action, is_letter=query.dead_letters),
            conditions=words_of(question.shown, zone_of(request)),
        )  # fmt: skip

    @post("/bulk")
    async def start(request: AnyRequest) -> Response[bytes]:
        form = await read_form(site, request, BulkForm)
        actor = identity_of(request).name
        wanted = form.filter(site.clock.now_ms())
        try:
            asked = BulkRequest(
                form.to_action(), wanted, form.expect, actor, f"{actor}/{form.request}"
            )
            bulk = await bulks.start(asked)
        except ActionRefused as error:
            return await refused(site, request, error)
        return gone_to(request, f"bulk/{bulk.id}", Notice.MANY_BEGUN)

    @get("/bulk/{bulk_id:str}")
    async def show(request: AnyRequest) -> Response[bytes]:
        bulk = _find(site, request)
        now_ms = site.clock.now_ms()
        made = await asyncio.to_thread(new_runs, site.history, bulk, now_ms)
        is_open = any(each.label == OPEN and each.count.number for each in made)
        return await site.page(
            request, "bulk.html", bulk=bulk, words=words_of_bulk(bulk), made=made,
            left_ms=left_ms(bulk, now_ms),
            every=1 if bulk.state == "running" else 2 if is_open else "",
            conditions=words_of(bulk.request.filter, zone_of(request)),
        )  # fmt: skip

    @post("/bulk/{bulk_id:str}/stop")
    async def stop(request: AnyRequest) -> Response[bytes]:
        _ = await read_form(site, request, StopForm)
        bulk = _find(site, request)
        was_running = bulk.state == "running"
        await bulk.stop()
        notice = Notice.STOPPED if was_running and bulk.state == "stopped" else Notice.ENDED_BEFORE
        return gone_to(request, f"bulk/{bulk.id}", notice)

    return [show_all, ask, start, show, stop]


def _find(site: Site, request: AnyRequest) -> Bulk:
    bulk = site.operator.bulks.get(request.path_params["bulk_id"])
    if bulk is None:
        raise HTTPException(status_code=404, detail=f"{NOT_KEPT.capitalize()}.")
    return bulk
