"""``POST /v1/runs/{id}/resolve``: decide what nobody but a person can know."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import Request, Response, post
from litestar.handlers import HTTPRouteHandler
from msgspec import UNSET

from fractal_rm.domain.actions import DecideOffer, DecideStep
from fractal_rm.domain.handoff.messages import CODE_PREFIX
from fractal_rm.domain.handoff.sender import Decision
from fractal_rm.domain.refusals import UnknownRun, WrongShape
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import History, Intake
from fractal_rm.web.api.action_requests import read_body_as
from fractal_rm.web.api.actions import ActionHandlers
from fractal_rm.web.api.identity import identity_of
from fractal_rm.web.problems import MEDIA_TYPE, ActionProblem

# How long the response waits for the effect of a decision, and how often it looks.
EFFECT_LIMIT_S, EFFECT_INTERVAL_S = 5.0, 0.02
_IN_DOUBT = (State.OFFERED, State.PARKED)
_EXPECTED = (
    'the body must be {"decision": "taken"} or "run-here" for a run in doubt,'
    ' or {"done": true, "result": …} or {"done": false} for a step in doubt'
)


class Resolution(msgspec.Struct, frozen=True):
    """The body. ``decision`` is for an offer in doubt, and the other keys for a step in doubt.

    See `DecideOffer` and `DecideStep`.
    """

    decision: Decision | msgspec.UnsetType = UNSET
    done: bool | msgspec.UnsetType = UNSET
    result: msgspec.Raw | msgspec.UnsetType = UNSET
    again: bool = False


class ResolvedRun(msgspec.Struct):
    """A run, and its state after the decision. It may still be offered: see the status 202."""

    run: str
    state: State


class ResolveHandler:
    """Decides offers and steps in doubt. Without ``actions``, only offers of this process."""

    def __init__(self, intake: Intake, history: History, actions: ActionHandlers | None) -> None:
        self._intake = intake
        self._history = history
        self._actions = actions

    async def resolve(self, run_id: str, request: Request[Any, Any, Any]) -> Response[Any]:
        """Do what the body of a request says."""
        body = await read_body_as(request, Resolution, _EXPECTED)
        if (body.decision is UNSET) == (body.done is UNSET):
            raise WrongShape(_EXPECTED)
        if body.decision is not UNSET:
            return await self._decide_offer(run_id, body.decision, request)
        if self._actions is None or body.done is UNSET:
            raise WrongShape(_EXPECTED)
        result = msgspec.Raw(b"null") if body.result is UNSET else body.result
        action = DecideStep(run_id, body.done, result, body.again)
        return await self._actions.on_run(request, action, run_id)

    async def _decide_offer(
        self, run_id: str, decision: Decision, request: Request[Any, Any, Any]
    ) -> Response[Any]:
        if self._intake.resolve(run_id, decision, identity_of(request).name):
            return await self._after_decision(run_id)
        state, journal = await self._current_state(run_id)
        if state is State.OFFERED and journal is not None and self._actions is not None:
            action = DecideOffer(run_id, decision)
            return await self._actions.on_run(request, action, run_id)
        return _not_in_doubt(run_id, state, journal)

    async def _after_decision(self, run_id: str) -> Response[Any]:
        """Wait until the decision is carried out. If this takes too long, the status is 202."""
        end_s = asyncio.get_running_loop().time() + EFFECT_LIMIT_S
        while self._intake.state_of(run_id) in _IN_DOUBT:
            if asyncio.get_running_loop().time() >= end_s:
                break
            await asyncio.sleep(EFFECT_INTERVAL_S)
        state, _ = await self._current_state(run_id)
        return Response(ResolvedRun(run_id, state), status_code=202 if state in _IN_DOUBT else 200)

    async def _current_state(self, run_id: str) -> tuple[State, str | None]:
        """The state of a run, and its journal if the run is not open in this process.

        Raises UnknownRun.
        """
        state = self._intake.state_of(run_id)
        if state is not None:
            return state, None
        detail = await asyncio.to_thread(self._history.run, run_id)
        if detail is None:
            raise UnknownRun(f"no run {run_id[:40]} is in the journals")
        return detail.summary.state, detail.summary.journal


def _not_in_doubt(run_id: str, state: State, journal: str | None) -> Response[Any]:
    detail = f"run {run_id} is {state.value}"
    if state is State.OFFERED and journal is not None:
        detail += (
            f", and the process of {journal}.journal has it: run `fractal-rm runs resolve` there"
        )
    kind, title = CODE_PREFIX + "not-in-doubt", "This run is not in doubt"
    problem = ActionProblem(kind, title, 409, detail, run=run_id, state=state)
    return Response(problem, status_code=409, media_type=MEDIA_TYPE)


def resolve_routes(handler: ResolveHandler) -> list[HTTPRouteHandler]:
    """Make the route. `web.access` has checked the scope ``operate``."""

    @post("/v1/runs/{run_id:str}/resolve", status_code=200)
    async def resolve(request: Request[Any, Any, Any]) -> Response[Any]:
        run_id: str = request.path_params["run_id"]
        return await handler.resolve(run_id, request)

    return [resolve]
