"""A drained node hands waiting runs over, and returns runs that it has received."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from engine_stage import until
from fractal_rm.config.model import Bounds
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import Offered, Placed
from fractal_rm.domain.refusals import Draining, Paused, WrongShape
from fractal_rm.domain.state import State
from joined_stages import joined


@asynccontextmanager
async def started(*ids: str, **changes):
    """The stages of joined nodes, started."""
    stages = joined(*ids, **changes)
    async with AsyncExitStack() as stack:
        for stage in stages.values():
            await stack.enter_async_context(stage)
        yield stages


ONE_SLOT = {"bounds": Bounds(max_inflight_runs=1)}


async def occupy(stage):
    """Let the only slot of a node be taken by a run, until the returned event is set."""
    release = stage.block_calls("slow/1")
    await stage.send("4")
    await until(lambda: stage.called_endpoints() == ["slow/1"])
    return release


async def test_a_drained_node_refuses_triggers_and_offers_and_is_not_ready():
    async with started("a", "b") as stages:
        a, b = stages["a"], stages["b"]
        b.node.set_draining(True)
        with pytest.raises(Draining, match="an operator drains this node"):
            await b.send()
        assert [check.text for check in b.node.readiness() if not check.ok] == [
            "drained by an operator"
        ]
        a.balancer.answer = "b"
        outcome = await a.run()
        assert outcome.state is State.SUCCEEDED
        assert "node b answered draining" in outcome.reason
        b.node.set_draining(False)
        assert (await a.run()).state is State.HANDED_OFF


async def test_a_paused_node_refuses_offers_with_its_cause():
    async with started("a", "b") as stages:
        a, b = stages["a"], stages["b"]
        b.node.pause(True)
        a.balancer.answer = "b"
        outcome = await a.run()
        assert (outcome.state, outcome.reason) == (State.SUCCEEDED, "node b answered paused")
        assert Paused.code == "paused"


async def test_waiting_runs_of_a_drained_node_are_handed_over_and_the_run_in_flight_ends_there():
    async with started("a", "b", **ONE_SLOT) as stages:
        a, b = stages["a"], stages["b"]
        release = await occupy(a)
        waiting = [(await a.send("2")).run for _ in range(3)]
        a.node.set_draining(True)
        release.set()
        for run in waiting:
            assert (await a.wait_for_outcome(run)).state is State.HANDED_OFF
            assert (await b.wait_for_outcome(run)).state is State.SUCCEEDED
        placed = [fact for fact in a.disk.facts(waiting[0]) if isinstance(fact, Placed)]
        assert [fact.cause for fact in placed] == [Cause.DRAINED]
        assert a.called_endpoints() == ["slow/1"]


async def test_a_drained_node_asks_the_next_node_if_one_does_not_take_a_run():
    async with started("a", "b", "c", **ONE_SLOT) as stages:
        a, b, c = stages.values()
        release = await occupy(a)
        waiting = (await a.send("2")).run
        b.node.set_draining(True)
        a.node.set_draining(True)
        release.set()
        assert (await a.wait_for_outcome(waiting)).state is State.HANDED_OFF
        assert (await c.wait_for_outcome(waiting)).state is State.SUCCEEDED
        epochs = [fact.epoch for fact in a.disk.facts(waiting) if isinstance(fact, Offered)]
        assert epochs == [1, 2]


async def test_a_drained_node_executes_what_no_other_node_takes():
    async with started("a", "b", **ONE_SLOT) as stages:
        a, b = stages["a"], stages["b"]
        release = await occupy(a)
        waiting = (await a.send("2")).run
        for stage in (a, b):
            stage.node.set_draining(True)
        release.set()
        assert (await a.wait_for_outcome(waiting)).state is State.SUCCEEDED


async def test_a_received_run_is_returned_to_its_sender_and_is_executed_there_with_the_same_keys():
    async with started("a", "b", "c", **ONE_SLOT) as stages:
        a, b, c = stages.values()
        release = await occupy(b)
        a.balancer.answer = "b"
        run = (await a.send("2")).run
        await until(lambda: run in b.disk.runs)
        b.node.set_draining(True)
        release.set()
        assert (await b.wait_for_outcome(run)).state is State.HANDED_OFF
        outcome = await a.wait_for_outcome(f"{run}~2")
        assert outcome.state is State.SUCCEEDED
        assert outcome.reason == "the node that had the run has returned it"
        assert [request.headers["idempotency-key"] for request in a.components.requests] == [
            f"{run}:1"
        ]
        assert (b.called_endpoints(), c.called_endpoints()) == (["slow/1"], [])


async def test_a_returned_run_is_not_sent_away_again():
    async with started("a", "b", **ONE_SLOT) as stages:
        a, b = stages["a"], stages["b"]
        release_a = a.block_calls("slow/1")
        release = await occupy(b)
        a.balancer.answer = "b"
        run = (await a.send("2")).run
        await until(lambda: run in b.disk.runs)
        a.balancer.answer = None
        await a.send("4")
        await until(lambda: a.called_endpoints() == ["slow/1"])
        b.node.set_draining(True)
        release.set()
        await until(lambda: f"{run}~2" in a.disk.runs)
        b.node.set_draining(False)
        a.node.set_draining(True)
        release_a.set()
        assert (await a.wait_for_outcome(f"{run}~2")).state is State.SUCCEEDED


async def test_a_returned_run_takes_its_finished_steps_with_it():
    async with started("a", "b", **ONE_SLOT) as stages:
        a, b = stages["a"], stages["b"]
        release = await occupy(b)
        first_step = {
            "fact": "finished", "step": 1, "status": 200, "took_ms": 1, "result": "from elsewhere",
        }  # fmt: skip
        offer = {"run": "01M87NTQZMXFEQPS51973PM0F5", "epoch": 1, "sender": "a", "origin": "a"}
        run = (await b.offer("3", **offer, steps=[first_step])).run
        b.node.set_draining(True)
        release.set()
        await b.wait_for_outcome(run)
        outcome = await a.wait_for_outcome(f"{run}~2")
        assert outcome.state is State.SUCCEEDED
        assert a.called_endpoints() == ["b/1"]
        assert json.loads(a.components.requests[0].body) == {"payload": ["from elsewhere"]}
        assert a.facts(f"{run}~2")[1:3] == ["Received", "Finished"]


async def test_a_received_run_with_finished_steps_takes_one_permit_of_its_flow():
    async with started("a", "b") as stages:
        b = stages["b"]
        step = {"fact": "finished", "step": 1, "status": 200, "took_ms": 1, "result": "r"}
        offer = {"run": "01M87NTQZMXFEQPS51973PM0F5", "epoch": 1, "sender": "a", "origin": "a"}
        release = b.block_calls("b/1")
        run = (await b.offer("3", **offer, steps=[step])).run
        await until(lambda: b.called_endpoints() == ["b/1"])
        assert b.queue.permits.count_held("3") == 1
        release.set()
        await b.wait_for_outcome(run)
        await until(lambda: not b.load.in_flight)
        assert b.queue.permits.count_held("3") == 0


@pytest.mark.parametrize(
    "steps",
    [
        [{"fact": "finished", "step": 9, "status": 200, "took_ms": 1, "result": ""}],
        [{"fact": "passed", "position": 0}],
        [{"fact": "passed", "position": 9}],
        [{"fact": "finished", "step": 1, "status": 200, "took_ms": 1, "result": ""}] * 2,
        [{"fact": "settled", "state": "succeeded"}],
        "steps",
    ],
)
async def test_an_offer_with_steps_that_the_flow_does_not_have_is_refused(steps):
    async with started("b") as stages:
        with pytest.raises(WrongShape):
            await stages["b"].offer("3", run="01M87NTQZMXFEQPS51973PM0F5", epoch=1, steps=steps)
        assert stages["b"].disk.runs == {}
