"""Cancel: an operator ends an open run, wherever it is."""

from __future__ import annotations

import asyncio

import pytest

from engine_stage import Stage, until
from fractal_rm.domain.actions import ActionRequest, Cancel, NoSuchTarget
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import Settled
from fractal_rm.domain.state import State


def cancel(stage: Stage, run_id: str, actor="anna", request_id="r1", **options):
    """Ask the node of a stage to cancel a run."""
    request = ActionRequest(Cancel(run_id, **options), actor, request_id)
    return stage.node.actions.act(request)


async def test_a_waiting_run_ends_as_cancelled_and_is_never_called():
    async with Stage() as stage:
        stage.node.pause(True)
        run_id = (await stage.send()).run
        done = await cancel(stage, run_id)
        assert (done.run, done.state, done.repeated) == (run_id, State.CANCELLED, False)
        assert stage.disk.facts(run_id)[-1] == Settled(
            State.CANCELLED, "anna cancelled the run", Cause.OPERATOR, actor="anna", request="r1"
        )
        stage.node.pause(False)
        assert (await stage.run()).state is State.SUCCEEDED
        assert len(stage.called_endpoints()) == 3
        assert stage.load.waiting == stage.load.payload_bytes == 0


async def test_a_client_that_waits_for_a_cancelled_run_gets_the_outcome():
    async with Stage() as stage:
        stage.node.pause(True)
        run_id = (await stage.send()).run
        waiting = asyncio.ensure_future(stage.node.outcome(run_id, 10))
        await until(lambda: stage.node.lifecycle.outcomes.waiting == 1)
        await cancel(stage, run_id)
        assert (await waiting).state is State.CANCELLED


async def test_a_run_that_is_not_open_is_not_cancelled():
    async with Stage() as stage:
        with pytest.raises(NoSuchTarget):
            await cancel(stage, "no such run")
