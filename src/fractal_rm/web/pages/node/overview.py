"""The overview says whether the node is well, and if not, since when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import log2

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from markupsafe import Markup

from fractal_rm.config.model import Config
from fractal_rm.domain.conditions import conditions_of, split
from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.node_status import FlowStatus, NodeStatus, flows_now
from fractal_rm.domain.story.words import duration
from fractal_rm.engine.ports import Failures
from fractal_rm.web.pages.frame.site import AnyRequest, Site
from fractal_rm.web.pages.frame.text_filters import about, rate
from fractal_rm.web.pages.numbers.charts import bars, chart_of
from fractal_rm.web.pages.numbers.figures import (
    NOW_MINUTES,
    FlowFigures,
    flow_figures,
    is_accepted,
    is_trouble,
    latency_of,
    p99_steps,
    per_second_now,
    steps_of,
)
from fractal_rm.web.pages.numbers.recent import MINUTE_MS, SHOWN_MINUTES, Series
from fractal_rm.web.pages.trouble.failure_rows import failure_rows

MAX_FLOWS, MAX_FAILURES = 25, 8


class Figure(msgspec.Struct, frozen=True):
    """One of the figures at the top: its name, its value, a note, and perhaps a chart."""

    name: str
    value: str
    note: str = ""
    tone: str = ""
    chart: Markup | None = None


class FlowRow(msgspec.Struct, frozen=True):
    """One flow. ``now`` has the numbers of its runs that wait and that are in flight."""

    figures: FlowFigures
    title: str
    now: FlowStatus
    chart: Markup

    @property
    def open(self) -> int:
        """The runs that wait or are in flight."""
        return self.now.waiting + self.now.in_flight


class Past(msgspec.Struct, frozen=True):
    """What the history knows. ``problem`` says why it knows nothing."""

    minutes: Series
    hours: Series
    failures: Failures
    problem: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether nothing happened in the last day."""
        return not self.hours.counts and not self.failures.groups


def overview_routes(site: Site) -> list[HTTPRouteHandler]:
    """Make the route of the overview."""

    @get("/")
    async def show(request: AnyRequest) -> Response[bytes]:
        statuses = await site.operator.processes.statuses()
        past = await _past(site)
        now_ms, config = site.clock.now_ms(), site.config()
        conditions, also_well = split(
            [*conditions_of(statuses.processes), *await site.conditions.now(statuses.processes)]
        )
        rows = flow_rows(config, statuses.processes, past)
        return await site.page(
            request, "overview.html",
            statuses=statuses,
            past=past,
            figures=figures_of(statuses.processes, past.minutes, now_ms),
            failures=failure_rows(past.failures.groups, now_ms),
            shown_failures=MAX_FAILURES,
            flows=rows[:MAX_FLOWS],
            more_flows=max(0, len(rows) - MAX_FLOWS),
            is_first_day=past.is_empty and not past.problem,
            first_flow=next(iter(config.flows), None),
            conditions=conditions,
            also_well=also_well,
            config=config,
            now_minutes=NOW_MINUTES,
        )  # fmt: skip

    return [show]


async def _past(site: Site) -> Past:
    counts, failures, problem = await site.recent.counts(), Failures([]), ""
    try:
        failures = await site.recent.failures()
    except JournalError as error:
        problem = str(error)
    return Past(counts.minutes, counts.hours, failures, counts.problem or problem)


def figures_of(processes: Sequence[NodeStatus], minutes: Series, now_ms: int) -> list[Figure]:
    """The figures at the top."""
    accepted = steps_of(minutes, minutes.counts, is_accepted)
    trouble = steps_of(minutes, minutes.counts, is_trouble)
    failed_now = per_second_now(trouble, minutes.begin_ms, now_ms)
    latency = latency_of(minutes.counts, now_ms - NOW_MINUTES * MINUTE_MS)
    p99 = p99_steps(minutes)
    oldest = min(
        (each.oldest_waiting_ms for each in processes if each.oldest_waiting_ms is not None),
        default=None,
    )
    waiting = sum(each.waiting for each in processes)
    hour = f"in the last {SHOWN_MINUTES} minutes"
    return [
        Figure(
            "in", rate(per_second_now(accepted, minutes.begin_ms, now_ms)),
            f"{sum(accepted):,} {hour}",
            chart=bars(f"{sum(accepted):,} runs accepted {hour}", ("accent", accepted)),
        ),
        Figure(
            "failed", rate(failed_now),
            f"{sum(trouble):,} {hour}", "fail" if failed_now else "",
            bars(f"{sum(trouble):,} runs in trouble {hour}", ("fail", trouble)),
        ),
        Figure(
            "p99", about(latency.p99_ms),
            f"p50 {about(latency.p50_ms)}, last {NOW_MINUTES} minutes",
            chart=bars(
                f"p99 of each minute, {hour}, on a logarithmic scale; most {about(_most(p99))}",
                ("accent", [None if ms is None else log2(1 + ms) for ms in p99]),
            ),
        ),
        Figure(
            "in flight", f"{sum(each.in_flight for each in processes):,}", _parked(processes)
        ),
        Figure("waiting", f"{waiting:,}"),
        Figure(
            "oldest waiting", "-" if oldest is None else duration(max(0, now_ms - oldest))
        ),
    ]  # fmt: skip


def _most(numbers: Iterable[float | None]) -> float | None:
    return max((each for each in numbers if each is not None), default=None)


def _parked(processes: Sequence[NodeStatus]) -> str:
    """What is open, but neither in flight nor in the queue."""
    parts: list[str] = []
    for state in ("parked", "offered"):
        number = sum(each.open_runs.get(state, 0) for each in processes)
        parts += [f"{number:,} {state}"] if number else []
    return ", ".join(parts)


def flow_rows(config: Config, processes: Sequence[NodeStatus], past: Past) -> list[FlowRow]:
    """A row for each flow of the configuration, and for each other one that had runs."""
    now = flows_now(processes)
    figures = flow_figures((*config.flows, *now), past.minutes, past.hours)
    return [_flow_row(each, config, now) for each in figures]


def _flow_row(figures: FlowFigures, config: Config, now: dict[str, FlowStatus]) -> FlowRow:
    flow = config.flows.get(figures.flow)
    return FlowRow(
        figures,
        "not configured" if flow is None else flow.title,
        now.get(figures.flow, FlowStatus(figures.flow)),
        chart_of(figures),
    )
