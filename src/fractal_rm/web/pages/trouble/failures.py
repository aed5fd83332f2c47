"""Failures: runs in trouble by kind, how often, since when, and what can be done with all."""

from __future__ import annotations

import asyncio

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from fractal_rm.domain.cause import Cause
from fractal_rm.domain.list_names import list_names
from fractal_rm.engine.ports import Failures
from fractal_rm.web.api.filters import Conditions, Name, States, TimeText, filter_of
from fractal_rm.web.pages.frame.forms import read_page_query
from fractal_rm.web.pages.frame.site import AnyRequest, Site
from fractal_rm.web.pages.trouble.failure_rows import FailureRow, failure_rows

MAX_ROWS = 25
WITHIN_S = 0.05
RANGES = (
    ("1h", "1 hour"), ("6h", "6 hours"), ("24h", "24 hours"), ("7d", "7 days"), ("60d", "60 days"),
    ("36500d", "all"),
)  # fmt: skip


class FailuresQuery(msgspec.Struct, frozen=True):
    """The query of the page. ``handled``: those that an operator has replayed or discarded."""

    since: TimeText = "24h"
    until: TimeText | None = None
    flow: Name | None = None
    state: States | None = None
    component: Name | None = None
    cause: Name | None = None
    text: Name | None = None
    handled: bool = False

    def conditions(self) -> Conditions:
        """The same as conditions on runs."""
        return Conditions(
            flow=self.flow, state=self.state, component=self.component, cause=self.cause,
            since=self.since, until=self.until, text=self.text,
            handled=self.handled,
        )  # fmt: skip


class GroupTable(msgspec.Struct, frozen=True):
    """Groups as a table. ``more``: how many groups are left out."""

    rows: list[FailureRow]
    runs: int
    more: int
    searched_to_ms: int | None
    unreadable: str

    @classmethod
    def of(cls, found: Failures, since_ms: int, now_ms: int) -> GroupTable:
        """The table for groups that were found since a time."""
        return cls(
            failure_rows(found.groups, now_ms, since_ms)[:MAX_ROWS],
            sum(each.count for each in found.groups),
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
        wanted = filter_of(query.conditions(), now_ms, dead_letters=False)
        found = await asyncio.to_thread(site.history.failures, wanted, within_s=WITHIN_S)
        config = site.config()
        choices = {
            "flow": list(config.flows),
            "component": list(config.components),
            "cause": [cause.text for cause in Cause],
        }
        return await site.page(
            request, "failures.html", query=query, ranges=RANGES, choices=choices,
            groups=GroupTable.of(found, wanted.since_ms or 0, now_ms),
        )  # fmt: skip

    return [show]
