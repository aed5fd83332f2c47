"""Try a flow: start a real run of it with a payload, and follow the run."""

from __future__ import annotations

import asyncio
import hashlib

import msgspec
from litestar import Response, get, post
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from msgspec import UNSET

from fractal_rm.config.effects import effects_of
from fractal_rm.domain.access import Scope
from fractal_rm.domain.facts import Accepted
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.masking.omitted import Omission
from fractal_rm.domain.missing_fields import MissingField
from fractal_rm.domain.needs import payload_paths
from fractal_rm.domain.node_status import FlowStatus, flows_now
from fractal_rm.domain.refusals import Malformed, Refused
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.trial import fields_that_are_missing, payload_to_edit, payload_to_send
from fractal_rm.domain.trigger import Arrival, TriggerSource
from fractal_rm.engine.ports import RunSummary
from fractal_rm.web.pages.actions.asked import RequestKey, RunId, gone_to, new_key
from fractal_rm.web.pages.flows.flows import flow_in_force
from fractal_rm.web.pages.frame.forms import MAX_FORM_BYTES, read_form, read_page_query
from fractal_rm.web.pages.frame.notices import Notice
from fractal_rm.web.pages.frame.site import AnyRequest, Site

OFFERED_RUNS = 8
MAX_EDITED_BYTES = 32 * 1024  # a larger payload is not shown, but can be sent as it is
WITHIN_S = 0.05
PERCENT_ENCODED = 3  # a form has up to so many bytes for each byte of a value
_NO_LONGER_KEPT = "The payload of run {} is no longer kept, or not completely. Choose another one."


class TryQuery(msgspec.Struct, frozen=True):
    """``run``: the run whose payload is offered; otherwise that of the newest run."""

    run: RunId = ""


class TryForm(msgspec.Struct, frozen=True):
    """The form that starts a run.

    ``run``: the payload is that of this run. ``anyway``: start it although fields are missing.
    """

    request: RequestKey
    payload: str = ""
    run: RunId = ""
    anyway: bool = False


class Offered(msgspec.Struct, frozen=True):
    """A payload that a form offers.

    ``run`` is the run that had it. ``size`` is set if the payload is too large to be shown.
    """

    text: str = ""
    run: str = ""
    size: int | None = None
    note: str = ""


class Choice(msgspec.Struct, frozen=True):
    """The last runs, and the payload that is offered. ``problem``: why there are none."""

    runs: list[RunSummary] = []
    offered: Offered = Offered()
    problem: str = ""


def flow_try_routes(site: Site) -> list[HTTPRouteHandler]:
    """Make the routes."""

    @get("/flows/{flow_id:str}/try", opt={"query": TryQuery})
    async def ask(request: AnyRequest) -> Response[bytes]:
        flow = flow_in_force(site, request.path_params["flow_id"])
        query = read_page_query(request, TryQuery)
        choice = await _choice(site, request, flow, query.run)
        return await _page(site, request, flow, choice, new_key())

    @post("/flows/{flow_id:str}/try")
    async def start(request: AnyRequest) -> Response[bytes]:
        flow = flow_in_force(site, request.path_params["flow_id"])
        max_bytes = site.config().bounds.max_trigger_bytes * PERCENT_ENCODED + MAX_FORM_BYTES
        form = await read_form(site, request, TryForm, max_bytes)
        choice = await _choice(site, request, flow, form.run)
        if form.payload or not form.run:
            choice = msgspec.structs.replace(choice, offered=Offered(form.payload))
        fault, missing, status = "", list[MissingField](), 422
        try:
            payload = await _payload_of(site, request, form)
            missing = [] if form.anyway else fields_that_are_missing(flow, payload)
            if not missing:
                accepted = await site.intake.receive(_arrival(flow, payload, form.request))
                notice = Notice.STARTED_BEFORE if accepted.duplicate else Notice.STARTED
                return gone_to(request, f"runs/{accepted.run}", notice)
        except Malformed as error:
            fault = f"The payload is not JSON: {error}. A text is written in quotes."
        except Refused as refusal:
            fault, status = f"{refusal.title}: {refusal.reason}.", refusal.status
        return await _page(
            site, request, flow, choice, form.request, fault=fault, missing=missing, status=status
        )

    return [ask, start]


def _arrival(flow: Flow, payload: bytes, key: str) -> Arrival:
    """The trigger. The same page with another payload starts another run."""
    digest = hashlib.blake2b(payload, digest_size=12).hexdigest()
    return Arrival(TriggerSource.COMMAND, payload, key=f"{key}/{digest}", flow_id=flow.id)


async def _payload_of(site: Site, request: AnyRequest, form: TryForm) -> bytes:
    """The payload that a form names. Raises Malformed, HTTPException, JournalError."""
    if form.payload or not form.run:
        return payload_to_send(form.payload)
    if not site.visitor(request).may(Scope.PAYLOAD.value):
        raise HTTPException(status_code=403, detail="this needs the scope payload")
    accepted = await asyncio.to_thread(_accepted, site, form.run)
    if accepted is None or accepted.omitted is not UNSET:
        raise HTTPException(status_code=410, detail=_NO_LONGER_KEPT.format(form.run))
    return bytes(accepted.payload)


async def _choice(site: Site, request: AnyRequest, flow: Flow, run_id: str) -> Choice:
    """What the form offers. Payloads are only for visitors with the scope payload."""
    if not site.visitor(request).may(Scope.PAYLOAD.value):
        return Choice()
    try:
        return await asyncio.to_thread(_read_choice, site, flow, run_id)
    except JournalError as error:
        return Choice(problem=str(error))


def _read_choice(site: Site, flow: Flow, run_id: str) -> Choice:
    own = RunFilter(flow=flow.id, dead_letters=False)
    runs = site.history.find(own, limit=OFFERED_RUNS, within_s=WITHIN_S).runs
    wanted = run_id or (runs[0].id if runs else "")
    accepted = _accepted(site, wanted) if wanted else None
    if accepted is not None and accepted.flow == flow.id:
        return Choice(runs, _offered(accepted, wanted))
    return Choice(runs, Offered(note=_NO_LONGER_KEPT.format(wanted) if wanted else ""))


def _accepted(site: Site, run_id: str) -> Accepted | None:
    """The first fact of a run. Blocks while it reads the disk."""
    detail = site.history.run(run_id)
    first = detail.facts[0].fact if detail and detail.facts else None
    return first if isinstance(first, Accepted) else None


def _offered(accepted: Accepted, run_id: str) -> Offered:
    omitted = accepted.omitted
    if omitted is not UNSET and omitted.what is not Omission.FIELDS:
        return Offered(note=_NO_LONGER_KEPT.format(run_id))
    note = ""
    if omitted is not UNSET:
        note = "The fields of MASK are not kept: write their values in place of the stars."
    if len(accepted.payload) > MAX_EDITED_BYTES:
        if note:
            return Offered(note=_NO_LONGER_KEPT.format(run_id))
        return Offered(run=run_id, size=len(accepted.payload))
    return Offered(payload_to_edit(bytes(accepted.payload)), run_id, note=note)


async def _page(
    site: Site,
    request: AnyRequest,
    flow: Flow,
    choice: Choice,
    key: str,
    *,
    fault: str = "",
    missing: list[MissingField] | None = None,
    status: int = 200,
) -> Response[bytes]:
    statuses = await site.operator.processes.statuses()
    paths = payload_paths(flow.steps)
    return await site.page(
        request, "flow_try.html", status=status,
        flow=flow,
        now=flows_now(statuses.processes).get(flow.id, FlowStatus(flow.id)),
        node=statuses.processes[0],
        effects=effects_of(site.config(), flow),
        fields=[path for path in paths if path],
        uses_all="" in paths,
        choice=choice,
        key=key,
        fault=fault,
        missing=missing or [],
    )  # fmt: skip
