"""Failures: runs in trouble by kind, how often, since when, and what can be done with all."""

from __future__ import annotations

import asyncio

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from fractal_rm.domain.list_names import list_names
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.engine.ports import Failures, History
from fractal_rm.web.api.filters import Conditions, Name, States, TimeText, filter_of
from fractal_rm.web.pages.forms import read_page_query
from fractal_rm.web.pages.group_rows import GroupRow, begin_of, rows_of
from fractal_rm.web.pages.site import AnyRequest, Site

WITHIN_S = 0.08  # for the failures that need attention
HANDLED_WITHIN_S = 0.02
MAX_ROWS = 50
RANGES = (
    ("1h", "1 hour"), ("6h", "6 hours"), ("24h", "24 hours"), ("7d", "7 days"), ("60d", "60 days"),
    ("36500d", "all"),
)  # fmt: skip


class FailuresQuery(msgspec.Struct, frozen=True):
    """The query of the page."""

    since: TimeText = "24h"
    until: TimeText | None = None
    flow: Name | None = None
    state: States | None = None
    component: Name | None = None
    cause: Name | None = None
    text: Name | None = None

    def conditions(self) -> Conditions:
        """The same as conditions on runs."""
        return Conditions(
            flow=self.flow, state=self.state, component=self.component, cause=self.cause,
            since=self.since, until=self.until, text=self.text,
        )  # fmt: skip


class GroupTable(msgspec.Struct, frozen=True):
    """Groups as a table. ``more``: how many groups are left out."""

    rows: list[GroupRow]
    runs: int
    begin_ms: int
    more: int
    searched_to_ms: int | None
    unreadable: str

    @classmethod
    def of(cls, found: Failures, since_ms: int, now_ms: int) -> GroupTable:
        """The table for groups that were found since a time."""
        begin_ms = begin_of(found.groups, since_ms)
        return cls(
            rows_of(found.groups[:MAX_ROWS], begin_ms, now_ms),
            sum(each.count for each in found.groups),
            begin_ms,
            max(len(found.groups) - MAX_ROWS, 0),
            found.searched_to_ms,
            list_names(found.unreadable),
        )


def failure_routes(site: Site) -> list[HTTPRouteHandler]:
    """Make the route."""

    @get("/failures")
    async def show(request: AnyRequest) -> Response[bytes]:
        query = read_page_query(request, FailuresQuery)
        now_ms = site.clock.now_ms()
        wanted = filter_of(query.conditions(), now_ms)
        open_groups, handled = await asyncio.to_thread(_read, site.history, wanted)
        since_ms = wanted.since_ms or 0
        return await site.page(
            request, "failures.html", query=query, ranges=RANGES,
            open=GroupTable.of(open_groups, since_ms, now_ms),
            handled=GroupTable.of(handled, since_ms, now_ms),
        )  # fmt: skip

    return [show]


def _read(history: History, wanted: RunFilter) -> tuple[Failures, Failures]:
    """The groups with which nobody has done anything, and the others."""
    replace = msgspec.structs.replace
    return (
        history.failures(replace(wanted, dead_letters=False, handled=False), within_s=WITHIN_S),
        history.failures(
            replace(wanted, dead_letters=False, handled=True), within_s=HANDLED_WITHIN_S
        ),
    )
