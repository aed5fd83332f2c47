"""``/v1/node``, and the requests of operators: drain the node, resolve a run in doubt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from litestar import Request, Response, get, post, put
from litestar.handlers import HTTPRouteHandler

from fractal_rm.config.control import ControlNotWritten
from fractal_rm.domain.handoff.messages import CODE_PREFIX
from fractal_rm.domain.handoff.sender import Decision
from fractal_rm.domain.node_description import NodeDescription
from fractal_rm.domain.refusals import UnknownRun
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import History, Intake
from fractal_rm.web.api.action_requests import read_body_as
from fractal_rm.web.api.identity import identity_of
from fractal_rm.web.problems import MEDIA_TYPE, ActionProblem, Problem

MAX_BODY_BYTES = 1_000
# How long the response waits for the effect of a decision, and how often it looks.
EFFECT_LIMIT_S, EFFECT_INTERVAL_S = 5.0, 0.02
_IN_DOUBT = (State.OFFERED, State.PARKED)
StoreDraining = Callable[[bool], object]


class DecisionBody(msgspec.Struct):
    """The body of a request that resolves a run."""

    decision: Decision


class ResolvedRun(msgspec.Struct):
    """A run, and its state after the decision. It may still be offered: see the status 202."""

    run: str
    state: State


def node_routes(
    endpoint: str, intake: Intake, history: History, store_draining: StoreDraining
) -> list[HTTPRouteHandler]:
    """Make the routes. ``store_draining`` writes to the disk whether the node drains.

    `web.access` has checked the scope of each request before its handler is called.
    """

    @get([endpoint, "/v1/node"])
    async def describe() -> NodeDescription:
        return intake.describe()

    @put("/v1/node/draining")
    async def drain(request: Request[Any, Any, Any]) -> Response[NodeDescription | Problem]:
        draining = await read_body_as(request, bool, "the body must be true or false")
        try:
            await asyncio.to_thread(store_draining, draining)
        except ControlNotWritten as error:
            return _problem(
                Problem(CODE_PREFIX + error.code, "Nothing was changed", 503, str(error))
            )
        intake.set_draining(draining)
        return Response(intake.describe())

    @post("/v1/runs/{run_id:str}/resolve", status_code=200)
    async def resolve(
        run_id: str, request: Request[Any, Any, Any]
    ) -> Response[ResolvedRun | Problem]:
        body = await read_body_as(
            request, DecisionBody, 'the body must be {"decision": "taken"} or "run-here"'
        )
        if intake.resolve(run_id, body.decision, identity_of(request).name):
            return await _after_decision(intake, history, run_id)
        return _not_in_doubt(run_id, *await _current_state(intake, history, run_id))

    return [describe, drain, resolve]


async def _after_decision(intake: Intake, history: History, run_id: str) -> Response[Any]:
    """Wait until the decision is carried out. If this takes too long, the status is 202."""
    end_s = asyncio.get_running_loop().time() + EFFECT_LIMIT_S
    while intake.state_of(run_id) in _IN_DOUBT:
        if asyncio.get_running_loop().time() >= end_s:
            break
        await asyncio.sleep(EFFECT_INTERVAL_S)
    state, _ = await _current_state(intake, history, run_id)
    return Response(ResolvedRun(run_id, state), status_code=202 if state in _IN_DOUBT else 200)


async def _current_state(intake: Intake, history: History, run_id: str) -> tuple[State, str | None]:
    """The state of a run, and its journal if the run is not open in this process.

    Raises UnknownRun.
    """
    state = intake.state_of(run_id)
    if state is not None:
        return state, None
    detail = await asyncio.to_thread(history.run, run_id)
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
    return _problem(problem)


def _problem(problem: Problem) -> Response[Any]:
    return Response(problem, status_code=problem.status, media_type=MEDIA_TYPE)
