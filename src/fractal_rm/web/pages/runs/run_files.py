"""What a browser can store of a run: a whole value, all facts, and a case for flows.cases.toml."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import msgspec
from litestar import get
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream

from fractal_rm.domain.masking.facts import masked
from fractal_rm.engine.ports import History, RunDetail, TimedFact
from fractal_rm.web.pages.frame.site import AnyRequest, Site
from fractal_rm.web.pages.frame.visitor import NotAllowed
from fractal_rm.web.pages.runs.run_values import TEXT, WholeValue, index_of, whole_value

PIECE_BYTES = 256 * 1024
FACTS_IN_A_PIECE = 200


def run_file_routes(site: Site) -> list[HTTPRouteHandler]:
    """Make the routes of the files of a run."""

    async def read(request: AnyRequest) -> RunDetail:
        run_id: str = request.path_params["run_id"]
        detail = await asyncio.to_thread(site.history.run, run_id)
        if detail is None:
            raise HTTPException(status_code=404, detail="no such run is in the journals")
        return detail

    def check_payload(request: AnyRequest) -> None:
        if not site.visitor(request).may("payload"):
            raise NotAllowed("to read the values of a run needs the scope payload")

    @get("/runs/{run_id:str}/values/{which:str}")
    async def value(request: AnyRequest) -> Stream:
        check_payload(request)
        run_id, which = str(request.path_params["run_id"]), str(request.path_params["which"])
        found = await asyncio.to_thread(_value, site.history, run_id, which)
        if found is None:
            raise HTTPException(status_code=404, detail="there is no such value")
        return as_file(_pieces(found.content), found.kind, f"{run_id}-{which}.{found.ending}")

    @get("/runs/{run_id:str}/facts")
    async def facts(request: AnyRequest) -> Stream:
        detail = await read(request)
        shows_values = site.visitor(request).may("payload")
        name = f"{detail.summary.id}-facts.jsonl"
        lines = _lines(detail.facts, shows_values=shows_values)
        return as_file(lines, TEXT, name)

    @get("/runs/{run_id:str}/case")
    async def case(request: AnyRequest) -> Stream:
        check_payload(request)
        run_id = (await read(request)).summary.id
        made = await site.operator.record_case(run_id)
        if made.fault:
            detail = f"no case can be made from this run: {made.fault}"
            raise HTTPException(status_code=409, detail=detail)
        name = f"{run_id}.cases.toml"
        return as_file(iter([made.text.encode()]), "application/toml", name)

    return [value, facts, case]


def _value(history: History, run_id: str, which: str) -> WholeValue | None:
    """One value of a run. No other large value is read."""
    outline = history.outline(run_id)
    index = None if outline is None else index_of(outline.facts, which)
    if outline is None or index is None:
        return None
    if index in outline.sizes:
        outline = history.outline(run_id, whole=index)
    # Meanwhile, the facts may have been deleted because of their age.
    if outline is None or index >= len(outline.facts):
        return None
    return whole_value(outline.facts[index].fact)


def as_file(pieces: Iterator[bytes], kind: str, name: str) -> Stream:
    """A response that a browser stores as a file, whatever is in it. ``name`` is in ASCII."""
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "Cache-Control": "no-store",
    }
    return Stream(pieces, headers=headers, media_type=kind)


def _pieces(content: bytes) -> Iterator[bytes]:
    view = memoryview(content)
    for start in range(0, max(len(content), 1), PIECE_BYTES):
        yield bytes(view[start : start + PIECE_BYTES])


def _lines(facts: Sequence[TimedFact], *, shows_values: bool) -> Iterator[bytes]:
    """One line of JSON for each fact, many at once."""
    encoder = msgspec.json.Encoder()
    for start in range(0, len(facts), FACTS_IN_A_PIECE):
        some = facts[start : start + FACTS_IN_A_PIECE]
        shown = [
            TimedFact(each.at_ms, masked(each.fact, shows_values=shows_values)) for each in some
        ]
        yield encoder.encode_lines(shown)
