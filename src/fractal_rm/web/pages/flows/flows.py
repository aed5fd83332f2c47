"""The flows, and one flow: what it does, how well, and what happens at its steps now."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from litestar import Response, get
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from markupsafe import Markup

from fractal_rm.config.flow_source import SourceLine, lines_of_flow
from fractal_rm.domain.flow import Flow, components_called_by
from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.node_status import FlowStatus, components_now, flows_now
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import TROUBLE_STATES
from fractal_rm.engine.ports import FailureGroup, Failures, Found
from fractal_rm.pictures.card import heading
from fractal_rm.web.pages.configuration.files_on_disk import FilesOnDisk, FilesWatch
from fractal_rm.web.pages.flows.flow_steps import picture_of, steps_of
from fractal_rm.web.pages.flows.flow_view import duration_rows
from fractal_rm.web.pages.frame.site import AnyRequest, Site
from fractal_rm.web.pages.numbers.charts import chart_of
from fractal_rm.web.pages.numbers.figures import FlowFigures, flow_figures
from fractal_rm.web.pages.numbers.recent import HOUR_MS

LAST_RUNS, LAST_FAILURES = 10, 5
WITHIN_S = 0.04  # for each question about one flow


class Past(msgspec.Struct, frozen=True):
    """What the history knows of one flow: failures of the last hour, and its last runs."""

    failures: Failures = Failures([])
    runs: Found = Found([])
    trouble: Found = Found([])
    problem: str = ""


def flow_in_force(site: Site, flow_id: str) -> Flow:
    """A flow of the configuration in force. Raises HTTPException."""
    flow = site.config().flows.get(flow_id)
    if flow is None:
        raise HTTPException(status_code=404, detail=f"flows.conf has no flow {flow_id[:40]}")
    return flow


def flow_routes(site: Site) -> list[HTTPRouteHandler]:
    """Make the routes."""
    files = FilesWatch(site.operator.configuration)

    @get("/flows")
    async def show_all(request: AnyRequest) -> Response[bytes]:
        statuses = await site.operator.processes.statuses()
        counts, now = await site.recent.counts(), flows_now(statuses.processes)
        config = site.config()
        figures = flow_figures((*config.flows, *now), counts.minutes, counts.hours)
        last = _last_failures((await _failures(site)).groups)
        rows = [
            _row(each, config.flows.get(each.flow), now, last.get(each.flow)) for each in figures
        ]
        return await site.page(
            request, "flows.html", rows=rows, counts=counts, files=await files.now()
        )

    @get("/flows/{flow_id:str}")
    async def show_one(request: AnyRequest) -> Response[bytes]:
        flow = flow_in_force(site, request.path_params["flow_id"])
        statuses = await site.operator.processes.statuses()
        counts, past = await site.recent.counts(), await asyncio.to_thread(_past, site, flow.id)
        now, on_disk = flows_now(statuses.processes), await files.now()
        status = now.get(flow.id, FlowStatus(flow.id))
        figures = flow_figures([flow.id], counts.minutes, counts.hours)
        own = next(each for each in figures if each.flow == flow.id)
        components = components_now(statuses.processes)
        steps = steps_of(
            flow, status, components, past.failures.groups,
            is_counted=not own.trouble or past.failures.searched_to_ms is None,
        )  # fmt: skip
        return await site.page(
            request, "flow.html",
            flow=flow,
            head=heading(flow),
            row=_row(own, flow, now),
            counts=counts,
            past=past,
            steps=steps,
            components=[
                components[name]
                for name in sorted(components_called_by(flow, site.config().flows))
                if name in components
            ],
            picture=picture_of(flow, steps, "../"),
            durations=duration_rows(
                each for each in counts.hours.counts if each.flow == flow.id
            ),
            files=on_disk,
            source=_source(on_disk, flow),
            not_at_steps=status.in_flight - sum(status.at_steps.values()),
        )  # fmt: skip

    return [show_all, show_one]


class FlowRow(msgspec.Struct, frozen=True):
    """One flow in a list. ``starts``: what starts it, besides triggers. None: not configured."""

    figures: FlowFigures
    flow: Flow | None
    starts: tuple[tuple[str, str], ...]
    now: FlowStatus
    chart: Markup
    share: float
    last: FailureGroup | None = None


def _row(
    figures: FlowFigures,
    flow: Flow | None,
    now: dict[str, FlowStatus],
    last: FailureGroup | None = None,
) -> FlowRow:
    return FlowRow(
        figures,
        flow,
        () if flow is None else heading(flow).starts[1:],
        now.get(figures.flow, FlowStatus(figures.flow)),
        chart_of(figures),
        figures.trouble / figures.accepted if figures.accepted else 0.0,
        last,
    )


async def _failures(site: Site) -> Failures:
    try:
        return await site.recent.failures()
    except JournalError:  # the page says so: its counts are missing, too
        return Failures([])


def _last_failures(groups: Sequence[FailureGroup]) -> dict[str, FailureGroup]:
    """The group that occurred last of each flow."""
    last: dict[str, FailureGroup] = {}
    for group in sorted(groups, key=lambda each: each.last_ms):
        if group.flow is not None:
            last[group.flow] = group
    return last


def _past(site: Site, flow_id: str) -> Past:
    """Blocks while it reads."""
    since_ms, history = site.clock.now_ms() - HOUR_MS, site.history
    own = RunFilter(flow=flow_id, dead_letters=False)
    bad = msgspec.structs.replace(own, states=tuple(TROUBLE_STATES))
    try:
        return Past(
            history.failures(msgspec.structs.replace(own, since_ms=since_ms), within_s=WITHIN_S),
            history.find(own, limit=LAST_RUNS, within_s=WITHIN_S),
            history.find(bad, limit=LAST_FAILURES, within_s=WITHIN_S),
        )
    except JournalError as error:
        return Past(problem=str(error))


def _source(on_disk: FilesOnDisk, flow: Flow) -> list[SourceLine]:
    return [] if on_disk.flows_text is None else lines_of_flow(on_disk.flows_text, flow)
