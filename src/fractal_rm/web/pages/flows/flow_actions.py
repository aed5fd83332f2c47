"""Pause and resume a flow: a page asks, its form acts."""

from __future__ import annotations

import msgspec
from litestar import Response, get, post
from litestar.handlers import HTTPRouteHandler

from fractal_rm.domain.actions import PauseFlow, ResumeFlow
from fractal_rm.domain.node_status import FlowStatus, flows_now
from fractal_rm.domain.pause_effects import effects_of_pause, effects_of_resume
from fractal_rm.web.pages.actions.asked import RequestKey, do, gone_to, new_key
from fractal_rm.web.pages.flows.flows import flow_in_force
from fractal_rm.web.pages.frame.forms import read_form
from fractal_rm.web.pages.frame.notices import Notice
from fractal_rm.web.pages.frame.site import AnyRequest, Site
from fractal_rm.web.pages.numbers.figures import flow_figures


class PauseForm(msgspec.Struct, frozen=True):
    """The form that pauses or resumes a flow."""

    request: RequestKey


def flow_action_routes(site: Site) -> list[HTTPRouteHandler]:
    """Make the routes. `page_paths` says who may send the forms."""

    @get("/flows/{flow_id:str}/pause")
    async def ask_pause(request: AnyRequest) -> Response[bytes]:
        flow = flow_in_force(site, request.path_params["flow_id"])
        config, now = site.config(), await _status(site, flow.id)
        counts = await site.recent.counts()
        [figures] = [
            each
            for each in flow_figures([flow.id], counts.minutes, counts.hours)
            if each.flow == flow.id
        ]
        return await site.page(
            request, "flow_pause.html",
            verb="Pause",
            flow=flow.id,
            title=flow.title,
            now=now,
            is_done=now.paused_by is not None,
            effects=effects_of_pause(
                flow, config.flows, now, figures.accepted, config.bounds.max_waiting_runs
            ),
            key=new_key(),
        )  # fmt: skip

    @get("/flows/{flow_id:str}/resume")
    async def ask_resume(request: AnyRequest) -> Response[bytes]:
        flow_id: str = request.path_params["flow_id"]
        flow, now = site.config().flows.get(flow_id), await _status(site, flow_id)
        if flow is None and now.paused_by is None:
            _ = flow_in_force(site, flow_id)  # raises; the pause of a removed flow can be ended
        return await site.page(
            request, "flow_pause.html",
            verb="Resume",
            flow=flow_id,
            title="" if flow is None else flow.title,
            now=now,
            is_done=now.paused_by is None,
            effects=effects_of_resume(flow_id, now),
            key=new_key(),
        )  # fmt: skip

    @post("/flows/{flow_id:str}/pause")
    async def pause(request: AnyRequest) -> Response[bytes]:
        return await act(request, PauseFlow(request.path_params["flow_id"]), Notice.FLOW_PAUSED)

    @post("/flows/{flow_id:str}/resume")
    async def resume(request: AnyRequest) -> Response[bytes]:
        return await act(request, ResumeFlow(request.path_params["flow_id"]), Notice.FLOW_RESUMED)

    async def act(
        request: AnyRequest, action: PauseFlow | ResumeFlow, notice: Notice
    ) -> Response[bytes]:
        form = await read_form(site, request, PauseForm)
        done = await do(site, request, action, form.request)
        if isinstance(done, Response):
            return done
        is_known = action.flow in site.config().flows
        return gone_to(request, f"flows/{action.flow}" if is_known else "flows", notice)

    return [ask_pause, ask_resume, pause, resume]


async def _status(site: Site, flow_id: str) -> FlowStatus:
    statuses = await site.operator.processes.statuses()
    return flows_now(statuses.processes).get(flow_id, FlowStatus(flow_id))
