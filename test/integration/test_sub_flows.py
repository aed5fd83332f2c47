"""RUN steps and their child runs. The adapters are in memory."""

from __future__ import annotations

import asyncio
import json

import pytest

from engine_stage import URL, ManualClock, Stage, until
from fractal_rm.adapters.memory.journal import JournalContent
from fractal_rm.config.model import Bounds
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.expression import Literal, ObjectOf, Payload, Result
from fractal_rm.domain.facts import Accepted
from fractal_rm.domain.flow import Content, Durability, OnError, Order, Reply, SubFlow, Wait
from fractal_rm.domain.state import State
from steps import flow, get, items, post, undo

CHILD = flow(post(1, "b 1", Payload()), Reply(items(Payload(), Result(1))), flow_id="8")
PARENT = flow(get(1, "a 1"), SubFlow(2, "8", items(Result(1))), post(3, "a 2", Result(2)))


def stage_of(*flows, disk=None, clock=None, **changes):
    return Stage(disk, clock, flows={each.id: each for each in flows}, **changes)


def children(disk):
    """The first fact of each child run, by run id."""
    first_facts = {run_id: disk.facts(run_id)[0] for run_id in disk.runs}
    return {
        run_id: fact
        for run_id, fact in first_facts.items()
        if isinstance(fact, Accepted) and isinstance(fact.origin, str)
    }


async def test_the_reply_of_the_child_run_is_the_result_of_the_step():
    async with stage_of(PARENT, CHILD) as stage:
        run_id = (await stage.send("9")).run
        outcome = await stage.wait_for_outcome(run_id)
        assert outcome.state is State.SUCCEEDED
        assert json.loads(bytes(outcome.results[1])) == ["from a/1", "from b/1"]
        assert stage.components.requests[2].body == b'{"payload": [["from a/1", "from b/1"]]}'
        ((child_id, fact),) = children(stage.disk).items()
        assert (fact.origin, fact.source, fact.flow) == (f"{run_id}:2", "flow", "8")
        assert stage.components.requests[1].headers["idempotency-key"] == f"{child_id}:1"
        assert stage.state(child_id) is State.SUCCEEDED
        load = stage.load
        assert load.result_bytes == load.payload_bytes == load.in_flight == 0
        assert stage.node.unfinished == 0


@pytest.mark.parametrize(
    ("content", "payload"),
    [
        (items(), None),
        (items(Payload("a")), 1),
        (items(Payload("a"), Payload()), [1, {"a": 1}]),
        (Content(json=ObjectOf((("x", Payload("a")), ("y", Literal("z"))))), {"x": 1, "y": "z"}),
    ],
)
async def test_the_payload_of_a_child_run_is_the_content_of_the_run_step(content, payload):
    async with stage_of(flow(SubFlow(1, "8", content)), CHILD) as stage:
        assert (await stage.run("9", payload={"a": 1})).state is State.SUCCEEDED
        (fact,) = children(stage.disk).values()
        assert json.loads(bytes(fact.payload)) == payload


async def test_a_path_can_pick_a_value_from_the_reply_of_a_child_run():
    child = flow(Reply(Content(json=ObjectOf((("n", Literal([7])),)))), flow_id="8")
    parent = flow(SubFlow(1, "8"), post(2, "a 1", json=Result(1, "n[0]")))
    async with stage_of(parent, child) as stage:
        assert (await stage.run("9")).state is State.SUCCEEDED
        assert stage.components.requests[0].body == b"7"


async def test_a_skipped_run_step_begins_no_child_run():
    parent = flow(SubFlow(1, "8", when=Literal(False)), post(2, "a 1", Result(1)))
    async with stage_of(parent, CHILD) as stage:
        assert (await stage.run("9")).state is State.SUCCEEDED
        assert not children(stage.disk)
        assert stage.components.requests[0].body == b'{"payload": [null]}'


async def test_a_failed_child_run_fails_the_step():
    async with stage_of(PARENT, CHILD) as stage:
        stage.set_answer("b/1", "no", 500)
        outcome = await stage.run("9")
        ((child_id, _),) = children(stage.disk).items()
        assert stage.state(child_id) is State.FAILED
        assert (outcome.state, outcome.reason) == (
            State.FAILED,
            f"step 2, RUN 8: child run {child_id} is failed: step 1, b 1: status 500: no",
        )


async def test_the_result_of_a_failed_child_run_is_an_error_text_with_the_setting_errors_continue():
    parent = flow(SubFlow(1, "8"), post(2, "a 1", Result(1)), errors=OnError.CONTINUE)
    async with stage_of(parent, CHILD) as stage:
        stage.set_answer("b/1", "no", 500)
        assert (await stage.run("9")).state is State.SUCCEEDED
        assert b"[Request_Maker] - error." in stage.components.requests[1].body


async def test_an_internal_error_in_a_child_run_makes_the_child_dead_and_fails_the_step():
    async with stage_of(PARENT, CHILD) as stage:
        stage.set_errors("b/1", RuntimeError("a bug"))
        outcome = await stage.run("9")
        ((child_id, _),) = children(stage.disk).items()
        assert (outcome.state, stage.state(child_id)) == (State.FAILED, State.DEAD)
        assert stage.node.unfinished == 0


async def test_a_run_step_fails_if_its_flow_is_no_longer_configured():
    async with stage_of(PARENT) as stage:
        assert (await stage.run("9")).reason == "step 2, RUN 8: flows.conf has no flow '8'"


async def test_recursion_of_flows_ends_at_a_maximum_depth():
    async with stage_of(flow(SubFlow(1, "9"))) as stage:
        outcome = await stage.run("9")
        assert outcome.state is State.FAILED
        assert outcome.reason.endswith("RUN steps can be nested at most 16 deep")
        assert len(children(stage.disk)) == 16
        assert stage.node.unfinished == 0
        assert stage.load.result_bytes == 0


async def test_a_failed_child_run_is_undone():
    child = flow(get(1, "b 1", undo=undo("2")), get(2, "slow 1"), flow_id="8")
    async with stage_of(flow(SubFlow(1, "8")), child) as stage:
        stage.set_answer("slow/1", "no", 500)
        assert (await stage.run("9")).state is State.FAILED
        assert stage.called_endpoints() == ["b/1", "slow/1", "b/2"]


async def test_a_long_wait_in_a_child_run_frees_the_slot_and_survives_a_crash():
    child = flow(Wait(60_000), get(1, "b 1"), flow_id="8")
    disk, clock = JournalContent(), ManualClock()
    stage = stage_of(PARENT, child, disk=disk, clock=clock)
    await stage.node.start()
    run_id = (await stage.send("9")).run
    load = stage.load
    await until(lambda: children(disk) and not load.in_flight)
    assert load.result_bytes == 0
    stage.crash()
    clock.ms += 60_000
    async with stage_of(PARENT, child, disk=disk, clock=clock) as stage:
        assert (await stage.wait_for_outcome(run_id)).state is State.SUCCEEDED
        assert stage.called_endpoints() == ["b/1", "a/2"]
        assert len(children(disk)) == 1


@pytest.mark.parametrize("order", [Order.LISTED, Order.DATAFLOW])
async def test_after_a_crash_the_parent_resumes_its_child_run(order):
    disk, clock = JournalContent(), ManualClock()
    child = flow(get(1, "b 1"), get(2, "slow 1"), flow_id="8", durable=Durability.STEP)
    parent = flow(*PARENT.steps, order=order, durable=Durability.STEP)
    stage = stage_of(parent, child, disk=disk, clock=clock)
    stage.block_calls("slow/1")
    await stage.node.start()
    run_id = (await stage.send("9")).run
    await until(lambda: stage.called_endpoints() == ["a/1", "b/1", "slow/1"])
    stage.crash()
    stage = stage_of(parent, child, disk=disk, clock=clock)
    stage.set_answer("slow/1", "resumed")
    async with stage:
        assert (await stage.wait_for_outcome(run_id)).state is State.SUCCEEDED
        assert stage.called_endpoints() == ["slow/1", "a/2"]
        assert len(children(disk)) == 1
        assert all(run.state is State.SUCCEEDED for run in disk.runs.values())


async def test_if_a_run_is_set_aside_after_crashes_its_descendants_are_set_aside_too():
    disk, clock = JournalContent(), ManualClock()
    middle = flow(SubFlow(1, "8"), flow_id="7")
    flows = flow(SubFlow(1, "7")), middle, CHILD
    stage = stage_of(*flows, disk=disk, clock=clock)
    stage.block_calls("b/1")
    await stage.node.start()
    run_id = (await stage.send("9")).run
    await until(lambda: stage.called_endpoints() == ["b/1"])
    stage.crash()
    async with stage_of(*flows, disk=disk, clock=clock, bounds=Bounds(max_attempts=1)) as restarted:
        child_id, grandchild_id = children(disk)
        assert restarted.node.unfinished == 0
        await until(lambda: {run.state for run in disk.runs.values()} == {State.DEAD})
        assert [disk.facts(each)[-1].reason for each in (child_id, grandchild_id)] == [
            f"its parent run {each} is set aside" for each in (run_id, child_id)
        ]
        assert restarted.called_endpoints() == []


async def test_an_internal_error_in_the_parent_makes_the_child_run_dead_too():
    parent = flow(SubFlow(1, "8"), get(2, "a 1"), order=Order.DATAFLOW)
    async with stage_of(parent, CHILD) as stage:
        stage.block_calls("b/1")

        async def fail(_):
            await until(lambda: "b/1" in stage.called_endpoints())
            raise RuntimeError("a bug")

        stage.components.answers[f"{URL}/a/1"] = fail
        outcome = await stage.run("9")
        ((child_id, _),) = children(stage.disk).items()
        assert (outcome.state, stage.state(child_id)) == (State.DEAD, State.DEAD)
        assert stage.node.unfinished == 0
        assert stage.load.result_bytes == 0


async def test_an_unknown_child_run_leaves_its_parent_unknown():
    disk, clock = JournalContent(), ManualClock()
    child = flow(get(1, "once 1"), flow_id="8")
    parent = flow(get(1, "a 1", undo=undo("2")), SubFlow(2, "8"))
    stage = stage_of(parent, child, disk=disk, clock=clock)
    stage.block_calls("once/1")
    await stage.node.start()
    run_id = (await stage.send("9")).run
    await until(lambda: stage.called_endpoints()[-1:] == ["once/1"])
    stage.crash()
    async with stage_of(parent, child, disk=disk, clock=clock) as stage:
        await until(lambda: stage.state(run_id) is State.UNKNOWN)
        assert stage.called_endpoints() == []


async def test_a_child_run_begins_when_the_disk_is_no_longer_full():
    async with stage_of(flow(get(1, "a 1"), SubFlow(2, "8")), CHILD) as stage:

        async def fill(_):
            stage.journal.full = True
            asyncio.get_running_loop().call_later(0.01, make_room)
            return HttpResponse(200, b"", b"")

        def make_room():
            stage.journal.full = False

        stage.components.answers[f"{URL}/a/1"] = fill
        assert (await stage.run("9")).state is State.SUCCEEDED
        assert len(children(stage.disk)) == 1
