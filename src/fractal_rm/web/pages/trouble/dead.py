"""Dead letters: messages that never became a run. A list by kind, and one of them."""

from __future__ import annotations

import asyncio

import msgspec
from litestar import Response, get
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from msgspec import UNSET

from fractal_rm.adapters.sqlite.format.faults import shape_of
from fractal_rm.domain.cause_words import meaning_of
from fractal_rm.domain.facts import Dead
from fractal_rm.domain.list_names import list_names
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.engine.ports import Failures, Found, History, RunSummary
from fractal_rm.web.api.filters import Conditions, Cursor, Name, TimeText, filter_of
from fractal_rm.web.pages.actions.asked import subject_of
from fractal_rm.web.pages.actions.filter_links import query_of, text_of_shape
from fractal_rm.web.pages.actions.subject import Subject
from fractal_rm.web.pages.frame.back import see_other
from fractal_rm.web.pages.frame.forms import read_page_query
from fractal_rm.web.pages.frame.site import HEADERS, AnyRequest, Site
from fractal_rm.web.pages.frame.visitor import root_of
from fractal_rm.web.pages.trouble.failure_rows import FailureRow
from fractal_rm.web.pages.trouble.failures import RANGES, GroupTable
from fractal_rm.web.pages.trouble.letters import message_of

WITHIN_S = 0.07  # for the kinds, and for the list
SIMILAR_WITHIN_S = 0.05
LISTED = 50
SIMILAR_LISTED = 5
ALL_AGES = "36500d"


class DeadQuery(msgspec.Struct, frozen=True):
    """The query of the list. ``handled``: also those that were sent or discarded."""

    since: TimeText = ALL_AGES
    until: TimeText | None = None
    cause: Name | None = None
    source: Name | None = None
    text: Name | None = None
    handled: bool = False
    cursor: Cursor | None = None

    def conditions(self) -> Conditions:
        """The same as conditions on runs."""
        return Conditions(
            cause=self.cause, source=self.source, since=self.since, until=self.until,
            text=self.text, handled=None if self.handled else False,
        )  # fmt: skip


def dead_routes(site: Site) -> list[HTTPRouteHandler]:
    """Make the routes."""

    @get("/dead")
    async def show_all(request: AnyRequest) -> Response[bytes]:
        query = read_page_query(request, DeadQuery)
        now_ms = site.clock.now_ms()
        wanted = filter_of(query.conditions(), now_ms, dead_letters=True)
        found, kinds = await asyncio.to_thread(_read, site.history, wanted, query.cursor)
        older = None
        if found.next is not None:
            older = query_of({**msgspec.structs.asdict(query), "cursor": found.next})
        return await site.page(
            request, "dead.html", query=query, ranges=RANGES, found=found, older=older,
            kinds=GroupTable.of(kinds, wanted.since_ms or 0, now_ms),
            unreadable=list_names(found.unreadable),
        )  # fmt: skip

    @get("/dead/{run_id:str}")
    async def show(request: AnyRequest) -> Response[bytes]:
        subject = await subject_of(site, request)
        letter = subject.letter
        if letter is None:
            path = f"runs/{subject.summary.id}"
            return see_other(path, root=root_of(request.url.path))
        similar = await asyncio.to_thread(_similar, site.history, subject)
        return await site.page(
            request, "dead_letter.html", run=subject.summary, story=subject.story,
            meaning=meaning_of(letter.code), letter=letter, message=message_of(letter),
            flow_id=None if letter.flow_id is UNSET else letter.flow_id,
            content_type=None if letter.content_type is UNSET else letter.content_type,
            similar=similar, note=subject.note,
        )  # fmt: skip

    @get("/dead/{run_id:str}/message")
    async def download(request: AnyRequest) -> Response[bytes]:
        if not site.visitor(request).may("payload"):
            raise HTTPException(status_code=403, detail="This needs the scope payload.")
        subject = await subject_of(site, request)
        letter = letter_of(subject)
        name = f"attachment; filename=message-{subject.summary.id}.txt"
        headers = {**HEADERS, "Content-Disposition": name}
        return Response(letter.body, headers=headers, media_type="application/octet-stream")

    return [show_all, show, download]


def letter_of(subject: Subject) -> Dead:
    """The dead letter. Raises HTTPException if it is a run."""
    if subject.letter is None:
        text = f"{subject.summary.id} is a run, and not a dead letter."
        raise HTTPException(status_code=404, detail=text)
    return subject.letter


def _read(history: History, wanted: RunFilter, cursor: str | None) -> tuple[Found, Failures]:
    found = history.find(wanted, cursor=cursor, limit=LISTED, within_s=WITHIN_S)
    if cursor is not None:
        return found, Failures([])
    return found, history.failures(wanted, within_s=WITHIN_S)


class Similar(msgspec.Struct, frozen=True):
    """Dead letters of the same kind. ``row`` is None if there is no other one."""

    row: FailureRow | None
    others: list[RunSummary]


def _similar(history: History, subject: Subject) -> Similar:
    """Dead letters with the same cause and a reason of the same shape, that need attention."""
    wanted = RunFilter(cause=subject.summary.cause, dead_letters=True, handled=False)
    found = history.failures(wanted, within_s=SIMILAR_WITHIN_S)
    shape = shape_of(subject.summary.reason)
    group = next((each for each in found.groups if each.shape == shape), None)
    if group is None or group.count < 2:
        return Similar(None, [])
    table = GroupTable.of(Failures([group]), group.first_ms, subject.told.now_ms)
    same = msgspec.structs.replace(wanted, text=text_of_shape(shape))
    others = history.find(same, limit=SIMILAR_LISTED + 1, within_s=SIMILAR_WITHIN_S).runs
    return Similar(
        table.rows[0],
        [each for each in others if each.id != subject.summary.id][:SIMILAR_LISTED],
    )
