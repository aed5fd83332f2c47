"""``<rest.endpoint>`` and ``/v1/flows/{id}/runs``: POST a trigger to start a run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from litestar import Request, Response, post, route
from litestar.handlers import HTTPRouteHandler

from fractal_rm.domain.facts import Finished, StepPassed
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.node_description import NodeDescription
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.run import Outcome, Run, apply_fact
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import AcceptedTrigger, History, Intake
from fractal_rm.web.api.trigger_requests import (
    explain_malformed,
    preferred_wait_s,
    read_arrival,
)

# The maximum number of attempts to read the outcome of an ended run, and the pause between them.
ENDED_READS, ENDED_READ_INTERVAL_S = 20, 0.05


class TriggerResponse(msgspec.Struct, omit_defaults=True):
    """The response to a trigger.

    ``results`` are the texts of the responses to the run's calls, in the order of the calls.
    ``epoch`` is set only in the response to a hand-off, where ``run`` and ``epoch`` are the
    receipt. ``reply`` is the value of REPLY, or else the last result. It is left out if the run
    has neither.
    """

    run: str
    state: State
    epoch: int | None = None
    reason: str = ""
    results: list[msgspec.Raw] | None = None
    reply: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class TriggerHandler:
    """Passes triggers to the engine, and waits for the outcome if the client asks for it."""

    def __init__(self, intake: Intake, history: History, max_bytes: Callable[[], int]) -> None:
        self._intake = intake
        self._history = history
        self._max_bytes = max_bytes

    async def handle(
        self, request: Request[Any, Any, Any], flow_id: str | None = None
    ) -> TriggerResponse:
        """Accept a trigger. With ``Prefer: wait=N`` (RFC 7240), wait until its run has ended.

        Raises Refused.
        """
        arrival = await read_arrival(request, flow_id, self._max_bytes())
        try:
            accepted = await self._intake.receive(arrival)
        except Malformed as error:
            raise explain_malformed(request, error) from None
        wait_s = preferred_wait_s(request.headers.getall("prefer", []))
        if wait_s is None:
            return TriggerResponse(accepted.run, accepted.state, accepted.epoch)
        outcome = await self._wait_for_outcome(accepted, wait_s)
        if outcome is None:
            state = self._intake.state_of(accepted.run) or accepted.state
            return TriggerResponse(accepted.run, state, accepted.epoch)
        return TriggerResponse(
            outcome.run,
            outcome.state,
            accepted.epoch,
            outcome.reason,
            list(outcome.results),
            msgspec.UNSET if outcome.reply is None else outcome.reply,
        )

    async def _wait_for_outcome(self, accepted: AcceptedTrigger, wait_s: int) -> Outcome | None:
        outcome = await self._intake.outcome(accepted.run, wait_s)
        if outcome is not None or self._intake.state_of(accepted.run) is not None:
            return outcome
        # The trigger is a duplicate, and its run has ended. Its outcome may not be on the disk yet.
        for _ in range(ENDED_READS):
            outcome = await asyncio.to_thread(self._recorded_outcome, accepted.run)
            if outcome is not None:
                break
            await asyncio.sleep(ENDED_READ_INTERVAL_S)
        return outcome

    def _recorded_outcome(self, run_id: str) -> Outcome | None:
        """Return the outcome of a run from the facts in the journal.

        Returns None if the run has not ended, or if it cannot be read completely.
        """
        detail = self._history.run(run_id)
        if detail is None or detail.unreadable or not detail.summary.state.final:
            return None
        summary, run = detail.summary, Run(run_id, Flow(""), detail.summary.accepted_ms)
        for timed in detail.facts:
            if isinstance(timed.fact, (Finished, StepPassed)):
                apply_fact(run, timed.fact)
        run.state, run.reason = summary.state, summary.reason
        return run.outcome()


def endpoint_routes(
    endpoint: str, intake: Intake, handler: TriggerHandler
) -> list[HTTPRouteHandler]:
    """Make the routes of ``rest.endpoint``. The original Runtime Manager posts triggers there."""

    @route(endpoint, http_method=["GET", "POST"], status_code=200)
    async def at_endpoint(request: Request[Any, Any, Any]) -> TriggerResponse | NodeDescription:
        """The body is ``{"id_flow", "is_load_balancing", "payload"}``. Other keys are ignored."""
        return await handler.handle(request) if request.method == "POST" else intake.describe()

    return [at_endpoint]


def flow_trigger_routes(handler: TriggerHandler) -> list[HTTPRouteHandler]:
    """Make the route for triggers at the path of a flow."""

    @post("/v1/flows/{flow_id:str}/runs", status_code=202)
    async def start_flow(request: Request[Any, Any, Any]) -> Response[TriggerResponse]:
        """The body is the payload, as any JSON.

        With ``Prefer: wait=N``, the response is sent when the run has ended, with the status 200.
        """
        response = await handler.handle(request, request.path_params["flow_id"])
        return Response(
            response,
            status_code=200 if response.state.final else 202,
            headers={"Location": f"/v1/runs/{response.run}"},
        )

    return [start_flow]
