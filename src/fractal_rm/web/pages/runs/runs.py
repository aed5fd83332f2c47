"""The list of runs: find them by conditions, newest first."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from fractal_rm.config.model import Config
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.run_id import is_run_id
from fractal_rm.domain.state import TROUBLE_STATES, State
from fractal_rm.domain.trigger import TriggerSource
from fractal_rm.engine.ports import Count, Found, History, RunSummary
from fractal_rm.web.api.query import read_query
from fractal_rm.web.pages.actions.bulk_links import bulk_links
from fractal_rm.web.pages.frame.back import see_other
from fractal_rm.web.pages.frame.forms import filled
from fractal_rm.web.pages.frame.site import AnyRequest, Shown, Site
from fractal_rm.web.pages.frame.text_filters import of_runs
from fractal_rm.web.pages.runs.run_query import (
    GROUPS,
    RANGES,
    SLOW,
    RunsPageQuery,
    address_of,
    filter_of_page,
    words_of,
)

RUNS_ON_PAGE = 50
TROUBLES_ON_PAGE = 5
MAX_NEW = 100  # new runs that are counted while the page is paused
FIND_S, COUNT_S, TROUBLES_S = 0.1, 0.03, 0.05
# Conditions that the form shows only when one of them is set, or on request.
MORE = ("component", "cause", "node", "source", "slower", "slower_ms", "handled", "from", "until")
SOURCES = (*(source.text for source in TriggerSource), "flow", "replay")


@dataclass(frozen=True)
class RunList:
    """What the page shows. ``troubles``: the newest failures, if the list has everything."""

    found: Found
    count: Count | None
    troubles: list[RunSummary]

    @property
    def count_text(self) -> str:
        """How many runs there are, as far as it is known: ``3,412 runs``."""
        count, shown = self.count, len(self.found.runs)
        if count is None or (not count.is_exact and count.number <= shown):
            return ""
        if count.is_exact:
            return of_runs(count.number)
        return f"{'at least' if count.searched_to_ms else 'more than'} {of_runs(count.number)}"


@dataclass(frozen=True)
class Choices:
    """What can be chosen in the form: from the configuration, not from the runs."""

    flows: list[tuple[str, str]]
    components: list[str]
    nodes: list[str]
    causes: list[str]
    sources: list[str]
    states: list[str]


def runs_routes(site: Site) -> list[HTTPRouteHandler]:
    """Make the route of the list."""

    @get("/runs", opt={"query": RunsPageQuery})
    async def show(request: AnyRequest) -> Response[bytes]:
        query, wanted, shown = _list_of(site, request)
        if query.text is not None and is_run_id(query.text.strip().upper()):
            return see_other(f"runs/{query.text.strip().upper()}", root=shown.root)
        listed = await asyncio.to_thread(_read, site.history, wanted, query)
        return await site.page(
            request,
            "runs.html",
            query=query,
            listed=listed,
            links=quick_links(query),
            bulk_links=bulk_links(wanted),
            choices=choices_of(site.config(), query),
            ranges=RANGES,
            words=words_of(wanted, shown.short),
            older=_older(query, listed.found),
            more=any(name in query.conditions for name in MORE),
            every="" if query.cursor is not None else "3",
        )

    @get("/runs/new")
    async def show_new(request: AnyRequest) -> Response[bytes]:
        query, wanted, _ = _list_of(site, request)
        number = await asyncio.to_thread(_count_new, site.history, wanted, query.after or "")
        return await site.page(request, "runs_new.html", query=query, number=number, most=MAX_NEW)

    return [show, show_new]


def _list_of(site: Site, request: AnyRequest) -> tuple[RunsPageQuery, RunFilter, Shown]:
    """The query of a request, its filter, and what the page needs. Raises BadParameter."""
    text = b"&".join(b"=".join(each) for each in filled(request.scope["query_string"]))
    query, shown = read_query(text, RunsPageQuery), Shown(site, request)
    return query, filter_of_page(query, shown.now_ms, shown.zone), shown


def _count_new(history: History, wanted: RunFilter, after: str) -> int:
    """How many runs are newer than the run ``after``, up to `MAX_NEW`."""
    found = history.find(wanted, limit=MAX_NEW, within_s=FIND_S)
    return sum(run.id > after for run in found.runs)


def _read(history: History, wanted: RunFilter, query: RunsPageQuery) -> RunList:
    found = history.find(wanted, cursor=query.cursor, limit=RUNS_ON_PAGE, within_s=FIND_S)
    if query.cursor is not None or found.searched_to_ms is not None:
        return RunList(found, None, [])
    if found.next is None:  # everything was found
        return RunList(found, Count(len(found.runs)), [])
    count = history.count(wanted, within_s=COUNT_S)
    return RunList(found, count, _troubles(history, wanted, found))


def _troubles(history: History, wanted: RunFilter, found: Found) -> list[RunSummary]:
    """The newest runs in trouble, if successes would hide them: if the list has all states."""
    if wanted.states is not None or wanted.handled is not None:
        return []
    in_trouble = msgspec.structs.replace(
        wanted, states=tuple(sorted(TROUBLE_STATES)), handled=False
    )
    troubles = history.find(in_trouble, limit=TROUBLES_ON_PAGE, within_s=TROUBLES_S).runs
    shown = {run.id for run in found.runs}
    return troubles if any(run.id not in shown for run in troubles) else []


def _older(query: RunsPageQuery, found: Found) -> str:
    """The address of what follows; empty: nothing does."""
    if found.next is None:
        return ""
    return query.older(found.next) if found.runs else query.go_on(found.next)


def quick_links(query: RunsPageQuery) -> list[tuple[str, str, bool]]:
    """Links to lists that are often needed: name, query, and whether it is the one shown.

    They keep the flow, the component and the range.
    """
    kept = {
        name: value
        for name, value in query.conditions.items()
        if name in ("flow", "since", "from", "until")
    }
    kinds = {
        "All": {},
        "In trouble": {"state": "trouble", "handled": "false"},
        "Open": {"state": "open"},
        "Slow": {"slower": SLOW},
    }
    return [
        (name, address_of({**kept, **kind}), query.conditions == {**kept, **kind})
        for name, kind in kinds.items()
    ]


def choices_of(config: Config, query: RunsPageQuery) -> Choices:
    """The choices of the form. What an address asks for is a choice, too, if it is no other."""
    flows = [(flow.id, flow.title) for flow in config.flows.values()]
    if query.flow is not None and query.flow not in config.flows:
        flows.append((query.flow, ""))
    return Choices(
        flows=flows,
        components=_with(list(config.components), query.component),
        nodes=_with(["here", *config.nodes], query.node),
        causes=_with(sorted(cause.text for cause in Cause), query.cause),
        sources=_with(list(SOURCES), query.source),
        states=_with(
            [state.text for state in State if state is not State.NEW],
            ",".join(query.state) if query.state and query.state[0] not in GROUPS else None,
        ),
    )


def _with(names: list[str], asked: str | None) -> list[str]:
    return names if asked is None or asked in names else [*names, asked]
