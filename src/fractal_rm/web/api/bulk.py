"""``/v1/bulk``: an action on all runs that match a filter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Union

import msgspec
from litestar import Request, Response, route
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler

from fractal_rm.domain.actions import (
    BulkAction,
    BulkRequest,
    Cancel,
    Definition,
    Discard,
    Release,
    Replay,
    Send,
)
from fractal_rm.engine.ports.actions import BulkProgress
from fractal_rm.web.api.action_options import Note, StepNumber
from fractal_rm.web.api.action_requests import read_body_as, request_id_of
from fractal_rm.web.api.filters import Conditions, filter_of
from fractal_rm.web.api.identity import identity_of
from fractal_rm.web.bulks import Bulk, Bulks

NOT_KEPT = "there is no such request, or it was finished too long ago"


class AnyBulkBody(msgspec.Struct, frozen=True, tag_field="action", forbid_unknown_fields=True):
    """The body of a request. ``filter`` chooses the runs; ``expect`` is their number, as seen.

    ``dead_letters``: act on messages that never became a run, not on runs.
    """

    filter: Conditions
    expect: Annotated[int, msgspec.Meta(ge=0, le=10**12)]
    dead_letters: bool = False


class BulkCancel(AnyBulkBody, frozen=True, tag="cancel"):
    """See `Cancel`."""

    cut: bool = False
    undo: bool = True

    def to_action(self) -> BulkAction:
        """The action, without a run."""
        return Cancel("", self.cut, self.undo)


class BulkReplay(AnyBulkBody, frozen=True, tag="replay"):
    """See `Replay`."""

    definition: Definition = Definition.RECORDED
    from_step: StepNumber | None = None
    again: bool = False

    def to_action(self) -> BulkAction:
        """The action, without a run."""
        return Replay("", self.definition, self.from_step, self.again)


class BulkSend(AnyBulkBody, frozen=True, tag="send"):
    """See `Send`."""

    again: bool = False

    def to_action(self) -> BulkAction:
        """The action, without a run."""
        return Send("", None, self.again)


class BulkDiscard(AnyBulkBody, frozen=True, tag="discard"):
    """See `Discard`."""

    note: Note = ""

    def to_action(self) -> BulkAction:
        """The action, without a run."""
        return Discard("", self.note)


class BulkRelease(AnyBulkBody, frozen=True, tag="release"):
    """See `Release`."""

    def to_action(self) -> BulkAction:
        """The action, without a run."""
        return Release("")


BulkBody = Union[BulkCancel, BulkReplay, BulkSend, BulkDiscard, BulkRelease]


class BulkResponse(msgspec.Struct, frozen=True):
    """A request on many runs, and how far it is.

    ``state`` is ``running``, ``finished``, ``stopped`` (by DELETE, or because the node stopped) or
    ``failed`` (``error`` says why). ``progress`` counts runs.
    """

    id: str
    action: str
    actor: str
    state: str
    progress: BulkProgress
    error: str = ""

    @classmethod
    def of(cls, bulk: Bulk) -> BulkResponse:
        """The response for a request."""
        return cls(bulk.id, bulk.action, bulk.actor, bulk.state, bulk.progress, bulk.error)


class BulksResponse(msgspec.Struct, frozen=True):
    """The requests on many runs of this process, the newest first."""

    bulks: list[BulkResponse]


def bulk_routes(bulks: Bulks, now_ms: Callable[[], int]) -> list[HTTPRouteHandler]:
    """Make the routes of ``/v1/bulk``. `web.access` has checked the scopes."""

    async def start(request: Request[Any, Any, Any]) -> Response[Any]:
        kind: Any = BulkBody
        body: BulkBody = await read_body_as(request, kind, "this is not a request on many runs")
        wanted = filter_of(body.filter, now_ms(), dead_letters=body.dead_letters or None)
        actor = identity_of(request).name
        bulk = await bulks.start(
            BulkRequest(body.to_action(), wanted, body.expect, actor, request_id_of(request))
        )
        headers = {"Location": f"/v1/bulk/{bulk.id}"}
        return Response(BulkResponse.of(bulk), status_code=202, headers=headers)

    @route("/v1/bulk", http_method=["GET", "POST"])
    async def all_bulks(request: Request[Any, Any, Any]) -> Response[Any]:
        if request.method == "POST":
            return await start(request)
        every = [BulkResponse.of(bulk) for bulk in bulks.newest_first()]
        return Response(BulksResponse(every), status_code=200)

    @route("/v1/bulk/{bulk_id:str}", http_method=["GET", "DELETE"], status_code=200)
    async def one_bulk(request: Request[Any, Any, Any]) -> BulkResponse:
        bulk = _find(bulks, request.path_params["bulk_id"])
        if request.method == "DELETE":
            await bulk.stop()
        return BulkResponse.of(bulk)

    return [all_bulks, one_bulk]


def _find(bulks: Bulks, bulk_id: str) -> Bulk:
    bulk = bulks.get(bulk_id)
    if bulk is None:
        raise HTTPException(status_code=404, detail=NOT_KEPT)
    return bulk
