"""The difference of two configurations, and the way back to an earlier one."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import msgspec
from litestar import Response, get, post
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler

from fractal_rm.config.applied import Applied, NotKept
from fractal_rm.config.compile import compile_config
from fractal_rm.config.restart import needs_restart
from fractal_rm.config.staged_files import FilesNotWritten
from fractal_rm.config.versions import newest_number
from fractal_rm.config.write_files import (
    ChangedMeanwhile,
    NotInHistory,
    unused_changes,
    why_not_writable,
    write_configuration,
)
from fractal_rm.domain.findings import ConfigRejected, Finding
from fractal_rm.web.config_history import ConfigHistory, FileDifference, digest_of_texts
from fractal_rm.web.pages.configuration.config_page import EDITED, why_not_editable
from fractal_rm.web.pages.frame.back import see_other
from fractal_rm.web.pages.frame.forms import read_form, read_page_query
from fractal_rm.web.pages.frame.site import AnyRequest, Site
from fractal_rm.web.pages.frame.visitor import root_of

Which = Annotated[str, msgspec.Meta(pattern=r"^(force|disk|[0-9]{1,12})\Z")]
NOT_AS_SHOWN = (
    "Nothing was changed: the files on the disk are not as this page has shown them. What would be"
    " changed now is below."
)


class DiffQuery(msgspec.Struct, frozen=True):
    """Two configurations: ``force``, ``disk``, or a number."""

    from_: Which = msgspec.field(name="from", default="force")
    to: Which = "disk"


class RollbackForm(msgspec.Struct, frozen=True):
    """``seen`` identifies the texts on the disk that the page has shown."""

    seen: Annotated[str, msgspec.Meta(max_length=64)] = ""


class Plan(msgspec.Struct, frozen=True):
    """What a way back will do. ``seen`` are the texts on the disk now."""

    wanted: Applied
    seen: dict[str, str]
    differences: tuple[FileDifference, ...]
    unused: tuple[str, ...]
    findings: list[Finding]
    restart: list[str]


def diff_routes(site: Site, history: ConfigHistory) -> list[HTTPRouteHandler]:
    """Make the route of differences."""

    @get("/config/diff", opt={"query": DiffQuery})
    async def diff(request: AnyRequest) -> Response[bytes]:
        query = read_page_query(request, DiffQuery)
        try:
            old = await asyncio.to_thread(history.texts, query.from_)
            new = await asyncio.to_thread(history.texts, query.to)
            past = await asyncio.to_thread(history.past)
        except NotKept as error:
            raise HTTPException(status_code=404, detail=error.reason) from None
        differences = await asyncio.to_thread(history.differences, old, new)
        return await site.page(
            request, "config_diff.html", query=query, differences=differences, past=past,
            names={"old": _name(query.from_), "new": _name(query.to)},
        )  # fmt: skip

    return [diff]


def _name(which: str) -> str:
    names = {"force": "the one in force", "disk": "on the disk"}
    return names.get(which, f"configuration {which}")


def rollback_routes(site: Site, history: ConfigHistory) -> list[HTTPRouteHandler]:
    """Make the routes of the way back: the question, and the answer."""
    rollback = _Rollback(site, history)

    @get("/config/rollback/{number:int}")
    async def ask(request: AnyRequest) -> Response[bytes]:
        return await rollback.page(request, await rollback.plan(request))

    @post("/config/rollback/{number:int}")
    async def go_back(request: AnyRequest) -> Response[bytes]:
        form = await read_form(site, request, RollbackForm)
        return await rollback.do(request, form.seen)

    return [ask, go_back]


class _Rollback:
    def __init__(self, site: Site, history: ConfigHistory) -> None:
        self._site = site
        self._history = history

    async def plan(self, request: AnyRequest) -> Plan:
        """What a way back to the number in the path would do now."""
        try:
            return await asyncio.to_thread(self._plan, int(request.path_params["number"]))
        except NotKept as error:
            raise HTTPException(status_code=404, detail=error.reason) from None

    async def page(
        self, request: AnyRequest, plan: Plan, refusal: str = "", status: int = 200
    ) -> Response[bytes]:
        """The page that asks, or says why nothing was done."""
        why_not = await asyncio.to_thread(self._why_not)
        if not self._site.visitor(request).may("admin"):
            why_not = "to go back, sign in with a token of scope admin"
        return await self._site.page(
            request, "config_rollback.html", status=status, wanted=plan.wanted,
            differences=plan.differences, unused=plan.unused, findings=plan.findings,
            restart=plan.restart, refusal=refusal, seen=digest_of_texts(plan.seen),
            why_not=why_not,
        )  # fmt: skip

    async def do(self, request: AnyRequest, seen: str) -> Response[bytes]:
        """Write the files, if they are on the disk as ``seen`` says."""
        plan = await self.plan(request)
        refusal, status = await asyncio.to_thread(self._why_not), 403
        if refusal or plan.findings:
            return await self.page(request, plan, "Nothing was changed.", 403 if refusal else 409)
        if plan.differences and digest_of_texts(plan.seen) != seen:
            return await self.page(request, plan, NOT_AS_SHOWN, 409)
        by = f"{self._site.visitor(request).identity.name}: rollback to {plan.wanted.number}"
        try:
            await asyncio.to_thread(self._write, plan, by)
        except ChangedMeanwhile:
            refusal, status = NOT_AS_SHOWN, 409
        except FilesNotWritten as error:
            refusal, status = f"{error.reason}.", 507
        except NotInHistory as error:
            refusal, status = f"{error.reason}.", 200
        if refusal:
            return await self.page(request, await self.plan(request), refusal, status)
        return see_other(f"config?back={plan.wanted.number}", root=root_of(request.url.path))

    def _plan(self, number: int) -> Plan:
        history = self._history
        wanted, seen = history.one(number), history.texts("disk")
        newest = history.one(newest_number(history.state))
        findings: list[Finding] = []
        restart: list[str] = []
        try:
            checked = compile_config(
                wanted.files, history.folder, os.environ, now_ms=self._site.clock.now_ms()
            )
            restart = needs_restart(self._site.config(), checked.config)
        except ConfigRejected as error:
            findings = error.findings
        return Plan(
            wanted, seen, history.differences(seen, wanted.files),
            unused_changes(seen, newest, wanted.files), findings, restart,
        )  # fmt: skip

    def _why_not(self) -> str:
        folder: Path = self._history.folder
        return why_not_editable(self._site.config(), why_not_writable(folder / EDITED))

    def _write(self, plan: Plan, by: str) -> None:
        history = self._history
        _ = write_configuration(
            history.folder, history.state, plan.wanted.files, seen=plan.seen, by=by,
            at_ms=self._site.clock.now_ms(),
        )  # fmt: skip
