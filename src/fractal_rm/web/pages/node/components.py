"""The components: what is slow, failing or limited; and each of them with its newest calls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from statistics import median

import msgspec
from litestar import Response, get
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler

from fractal_rm.config.model import Component, Config
from fractal_rm.domain.flow import Call, Flow
from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.node_status import ComponentStatus, NodeStatus
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.seen_calls import SeenCall
from fractal_rm.domain.story.words import cut
from fractal_rm.engine.ports import FailureGroup, Failures, RunSummary
from fractal_rm.web.pages.frame.site import AnyRequest, Site
from fractal_rm.web.pages.numbers.background import Backgrounds
from fractal_rm.web.pages.numbers.samples import Sample, SampledRun
from fractal_rm.web.pages.trouble.failure_rows import FailureRow, failure_rows

DAY_MS = 24 * 3_600_000
MAX_CALLS, MAX_FLOWS = 12, 5
WITHIN_S = 0.1  # for the newest runs of one flow
KEPT_S, SHARE, WAIT_S = 5.0, 0.02, 0.1


class Now(msgspec.Struct, frozen=True):
    """One component now, in all processes. ``since_ms``: when its circuit changed."""

    in_flight: int = 0
    waiting: int = 0
    circuit: str | None = None
    since_ms: int | None = None
    why: str = ""


class ComponentRow(msgspec.Struct, frozen=True):
    """One component. ``tone``, ``sign`` and ``word`` say how it does.

    ``retried`` of its ``all_calls`` in the sample failed and were made again.

    ``config`` is None if it is not configured any more. ``usual_ms`` is the median time of
    ``seen_calls`` newest calls that succeeded; None: none was seen.
    """

    name: str
    config: Component | None
    addresses: list[str]
    limits: str
    now: Now
    tone: str
    sign: str
    word: str
    failed: int
    since_ms: int | None
    newest: FailureGroup | None
    usual_ms: float | None
    seen_calls: int
    retried: int = 0
    all_calls: int = 0


class Use(msgspec.Struct, frozen=True):
    """A step of a flow that calls the component."""

    flow: Flow
    step: Call


class CallRow(msgspec.Struct, frozen=True):
    """A call that a run made."""

    run: RunSummary
    call: SeenCall


class OnePast(msgspec.Struct, frozen=True):
    """The newest calls of a component, from the newest runs of the flows that call it.

    ``as_of_ms`` is when they were read. If ``is_whole`` is false, not all runs of the last 24 hours
    were searched.
    """

    calls: list[CallRow]
    as_of_ms: int
    is_whole: bool
    problem: str = ""


def component_routes(site: Site) -> list[HTTPRouteHandler]:
    """Make the routes of the components."""

    async def read_calls(name: str) -> OnePast:
        return await asyncio.to_thread(_read_calls, site, name)

    calls = Backgrounds(read_calls, KEPT_S, site.clock.monotonic_s, SHARE)

    async def rows_now() -> tuple[list[ComponentRow], Failures, str]:
        statuses = await site.operator.processes.statuses()
        failures, problem = await _failures(site)
        sample = await site.samples.latest()
        rows = component_rows(
            site.config(), statuses.processes, failures.groups, sample, site.clock.now_ms()
        )
        return rows, failures, problem

    @get("/components")
    async def show_all(request: AnyRequest) -> Response[bytes]:
        rows, _, problem = await rows_now()
        return await site.page(request, "components.html", rows=rows, problem=problem)

    @get("/components/{name:str}")
    async def show(request: AnyRequest) -> Response[bytes]:
        name: str = request.path_params["name"]
        rows, failures, problem = await rows_now()
        row = next((each for each in rows if each.name == name), None)
        if row is None:
            raise NotFoundException(f"components.conf has no component {cut(name, 80)}")
        return await site.page(
            request, "component.html",
            row=row,
            failures=failure_rows(_of(name, failures.groups), site.clock.now_ms()),
            searched_to_ms=failures.searched_to_ms,
            problem=problem,
            uses=uses_of(name, site.config().flows.values()),
            past=await _newest(await calls.latest(name, WAIT_S), name, site),
        )  # fmt: skip

    return [show_all, show]


async def _failures(site: Site) -> tuple[Failures, str]:
    try:
        return await site.recent.failures(), ""
    except JournalError as error:
        return Failures([]), str(error)


def _read_calls(site: Site, name: str) -> OnePast:
    now_ms = site.clock.now_ms()
    flows = [*dict.fromkeys(use.flow.id for use in uses_of(name, site.config().flows.values()))]
    failed = RunFilter(component=name, since_ms=now_ms - DAY_MS, dead_letters=False)
    wanted = [failed, *(
        RunFilter(flow=flow, since_ms=now_ms - DAY_MS, dead_letters=False)
        for flow in flows[:MAX_FLOWS]
    )]  # fmt: skip
    sampled: dict[str, SampledRun] = {}
    is_whole = len(flows) <= MAX_FLOWS
    try:
        for each in wanted:
            read = site.samples.read(each, WITHIN_S)
            sampled |= {run.summary.id: run for run in read.runs}
            is_whole = is_whole and read.is_whole
    except JournalError as error:
        return OnePast([], now_ms, False, str(error))
    return OnePast(newest_calls(name, sampled.values()), now_ms, is_whole)


async def _newest(past: OnePast | None, name: str, site: Site) -> OnePast | None:
    """The newest calls with those of the sample of all flows, which may be newer."""
    sample = await site.samples.latest(0)
    if past is None or past.problem or sample is None:
        return past
    rows = {(row.run.id, row.call): row for row in newest_calls(name, sample.runs)}
    rows |= {(row.run.id, row.call): row for row in past.calls}
    return msgspec.structs.replace(past, calls=newest_first(rows.values()))


def newest_first(rows: Iterable[CallRow]) -> list[CallRow]:
    """The newest of some calls, the newest first."""
    return sorted(rows, key=lambda row: -row.call.at_ms)[:MAX_CALLS]


def newest_calls(name: str, sampled: Iterable[SampledRun]) -> list[CallRow]:
    """The newest calls of a component in runs, the newest first."""
    rows = [
        CallRow(run.summary, call)
        for run in sampled
        for call in run.calls
        if call.component == name
    ]
    return newest_first(rows)


def uses_of(name: str, flows: Iterable[Flow]) -> list[Use]:
    """The steps that call a component."""
    return [
        Use(flow, step)
        for flow in flows
        for step in flow.steps
        if isinstance(step, Call) and step.component == name
    ]


def component_rows(
    config: Config,
    processes: Sequence[NodeStatus],
    groups: Sequence[FailureGroup],
    sample: Sample | None,
    now_ms: int,
) -> list[ComponentRow]:
    """A row for each configured component, and for each other one that has failures.

    What needs attention comes first.
    """
    others = sorted({each.component for each in groups if each.component} - {*config.components})
    calls: dict[str, list[SeenCall]] = {}
    for run in sample.runs if sample else ():
        for call in run.calls:
            calls.setdefault(call.component, []).append(call)
    rows = [
        _row(
            name, config.components.get(name), _now(name, processes), _of(name, groups),
            calls.get(name, []), now_ms,
        )
        for name in (*config.components, *others)
    ]  # fmt: skip
    order = ("fail", "wait", "ok", "quiet")
    return sorted(rows, key=lambda row: (order.index(row.tone), -row.failed))


def _of(name: str, groups: Iterable[FailureGroup]) -> list[FailureGroup]:
    return [each for each in groups if each.component == name]


def _now(name: str, processes: Iterable[NodeStatus]) -> Now:
    found = [each for process in processes for each in process.components if each.component == name]
    if not found:
        return Now()
    worst = min(found, key=_badness)
    return Now(
        sum(each.in_flight for each in found),
        sum(each.waiting for each in found),
        worst.circuit,
        worst.since_ms,
        worst.why,
    )


def _badness(status: ComponentStatus) -> int:
    return ("open", "half-open", "closed", None).index(status.circuit)


def _row(
    name: str,
    component: Component | None,
    now: Now,
    groups: Sequence[FailureGroup],
    calls: Sequence[SeenCall],
    now_ms: int,
) -> ComponentRow:
    rows = failure_rows(groups, now_ms)
    retried = sum(call.is_retried for call in calls)
    tone, sign, word = _state(component, now, rows, retried)
    took_ms = [call.took_ms for call in calls if call.took_ms is not None and not call.reason]
    going_on = [row.group.first_ms for row in rows if row.goes_on]
    return ComponentRow(
        name,
        component,
        _addresses(component),
        _limits(component),
        now,
        tone,
        sign,
        word,
        sum(each.count for each in groups),
        now.since_ms if now.circuit == "open" else min(going_on, default=None),
        rows[0].group if rows else None,
        median(took_ms) if took_ms else None,
        len(took_ms),
        retried,
        len(calls),
    )


def _state(
    component: Component | None, now: Now, failures: Sequence[FailureRow], retried: int
) -> tuple[str, str, str]:
    if component is None:
        return "quiet", "-", "not configured"
    if now.circuit == "open":
        return "fail", "✗", "circuit open"
    if any(row.goes_on for row in failures):
        return "fail", "✗", "failing"
    if now.circuit == "half-open":
        return "wait", "!", "circuit half-open"
    if now.waiting or retried:
        return "wait", "!", "calls wait" if now.waiting else "calls are retried"
    return "ok", "✓", "well"


def _addresses(component: Component | None) -> list[str]:
    endpoints = () if component is None else component.endpoints.values()
    return list(dict.fromkeys(str(endpoint.post.origin) for endpoint in endpoints))


def _limits(component: Component | None) -> str:
    gate = None if component is None else component.gate
    if gate is None:
        return ""
    words = [f"{gate.limit} at once"] if gate.limit is not None else []
    return ", ".join(words if gate.rate is None else [*words, str(gate.rate)])
