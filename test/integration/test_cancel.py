"""Cancel: an operator ends an open run, wherever it is: waiting, parked, executed, or elsewhere."""

from __future__ import annotations

import asyncio
import json

import pytest

from engine_stage import SILENT, ManualClock, Stage, peer, settle, until
from fractal_rm.adapters.memory.journal import JournalContent
from fractal_rm.domain.actions import (
    ActionRequest,
    AtOtherNode,
    Cancel,
    CannotActNow,
    NoSuchTarget,
    WrongState,
)
from fractal_rm.domain.call_errors import ConnectFailed
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.expression import Payload, Result
from fractal_rm.domain.facts import Settled
from fractal_rm.domain.flow import Order, QueueSettings, Retry, SubFlow, Wait
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Arrival, TriggerMetadata, TriggerSource
from steps import each, flow, get, items, post, undo

HOUR_MS = 3_600_000
# The second step waits until the test answers it, or cuts it.
HELD = flow(get(1, "a 1", undo=undo("2")), get(2, "slow 1"), get(3, "b 1"))


def ask(stage: Stage, run_id: str, actor="anna", request_id="r1", **options):
    """Ask the node of a stage to cancel a run."""
    request = ActionRequest(Cancel(run_id, **options), actor, request_id)
    return stage.node.act(request)


def stage_of(main_flow, *more, disk=None, clock=None, **changes) -> Stage:
    return Stage(disk, clock, flows={each.id: each for each in (main_flow, *more)}, **changes)


async def begin(stage: Stage, endpoint="slow/1", flow_id="9", **keys) -> str:
    """Send a trigger, and wait until its run calls an endpoint. Returns the id of the run."""
    run_id = (await stage.send(flow_id, **keys)).run
    await until(lambda: endpoint in stage.called_endpoints())
    return run_id


def is_clean(stage: Stage) -> bool:
    """Whether nothing of the cancelled runs is left in the node."""
    load, lifecycle = stage.load, stage.node.lifecycle
    counts = (load.waiting, load.in_flight, load.payload_bytes, load.result_bytes)
    return not any(counts) and not lifecycle.runs and not len(lifecycle.queue.permits)


# --- waiting and parked runs ---------------------------------------------------------------------


async def test_a_waiting_run_ends_as_cancelled_and_is_never_called():
    async with Stage() as stage:
        stage.node.pause(True)
        run_id = (await stage.send()).run
        done = await ask(stage, run_id)
        assert (done.run, done.state, done.repeated) == (run_id, State.CANCELLED, False)
        assert stage.disk.facts(run_id)[-1] == Settled(
            State.CANCELLED, "anna cancelled the run", Cause.OPERATOR, actor="anna", request="r1"
        )
        stage.node.pause(False)
        await settle()
        assert stage.called_endpoints() == []
        assert is_clean(stage)


async def test_other_runs_in_the_same_line_go_on():
    async with Stage() as stage:
        stage.node.pause(True)
        first, second, third = [(await stage.send("2")).run for _ in range(3)]
        await ask(stage, second)
        stage.node.pause(False)
        for run_id in (first, third):
            assert (await stage.wait_for_outcome(run_id)).state is State.SUCCEEDED
        assert stage.state(second) is State.CANCELLED
        assert len(stage.called_endpoints()) == 2


async def test_a_waiting_run_of_a_flow_with_stale_and_latest_is_cancelled():
    latest = flow(get(1, "a 1"), queueing=QueueSettings(stale_ms=HOUR_MS, latest="id"))
    async with stage_of(latest) as stage:
        stage.node.pause(True)
        run_id = (await stage.send("9", payload={"id": 1})).run
        await ask(stage, run_id)
        assert stage.state(run_id) is State.CANCELLED
        newer = await stage.send("9", payload={"id": 1})
        assert stage.state(newer.run) is State.ACCEPTED
        stage.node.pause(False)
        assert (await stage.wait_for_outcome(newer.run)).state is State.SUCCEEDED
        assert is_clean(stage)


async def test_a_client_that_waits_for_a_cancelled_run_gets_the_outcome():
    async with Stage() as stage:
        stage.node.pause(True)
        run_id = (await stage.send()).run
        waiting = asyncio.ensure_future(stage.node.outcome(run_id, 10))
        await until(lambda: stage.node.lifecycle.outcomes.waiting == 1)
        await ask(stage, run_id)
        assert (await waiting).state is State.CANCELLED


async def test_a_cancelled_run_with_a_reply_topic_sends_its_reply_also_after_a_crash():
    disk, clock = JournalContent(), ManualClock()
    stage = Stage(disk, clock)
    await stage.node.start()
    stage.node.pause(True)
    stage.publisher.down = True
    body = json.dumps({"id_flow": "1", "payload": "p"}).encode()
    metadata = TriggerMetadata(reply_topic="answers", correlation=b"7")
    run_id = (await stage.node.receive(Arrival(TriggerSource.MQTT, body, metadata=metadata))).run
    done = await ask(stage, run_id)
    assert not done.state.final
    await until(lambda: "Replying" in stage.facts(run_id))
    stage.crash()
    async with Stage(disk, clock) as stage:
        await until(lambda: disk.runs[run_id].state.final)
        (message,) = stage.publisher.published
        assert json.loads(message.body)["state"] == "cancelled"
        assert (message.topic, message.correlation) == ("answers", b"7")
        last = disk.facts(run_id)[-1]
        assert (last.state, last.actor, last.request) == (State.CANCELLED, "anna", "r1")
        assert stage.called_endpoints() == []
        assert is_clean(stage)


async def park(main_flow, disk, clock) -> str:
    """Make a parked run that has finished its first step. Returns its id."""
    stage = stage_of(main_flow, disk=disk, clock=clock)
    await stage.node.start()
    stage.block_calls("slow/1")
    run_id = await begin(stage)
    await settle()
    stage.crash()
    clock.ms += HOUR_MS + 1_000
    return run_id


@pytest.mark.parametrize("with_undo", [True, False])
async def test_a_parked_run_is_cancelled_and_its_steps_are_undone_if_asked(with_undo):
    disk, clock = JournalContent(), ManualClock()
    run_id = await park(HELD, disk, clock)
    async with stage_of(HELD, disk=disk, clock=clock) as stage:
        await until(lambda: stage.state(run_id) is State.PARKED)
        done = await ask(stage, run_id, undo=with_undo)
        if not with_undo:
            assert done.state is State.CANCELLED
        assert (await stage.wait_for_outcome(run_id)).state is State.CANCELLED
        assert stage.called_endpoints() == (["a/2"] if with_undo else [])
        assert is_clean(stage)


async def test_a_parked_run_that_is_being_cancelled_is_not_parked_again_after_a_crash():
    disk, clock = JournalContent(), ManualClock()
    run_id = await park(HELD, disk, clock)
    stage = stage_of(HELD, disk=disk, clock=clock)
    await stage.node.start()
    stage.block_calls("a/2")
    await ask(stage, run_id)
    await until(lambda: stage.called_endpoints() == ["a/2"])
    stage.crash()
    async with stage_of(HELD, disk=disk, clock=clock) as stage:
        assert (await stage.wait_for_outcome(run_id)).state is State.CANCELLED
        assert stage.called_endpoints() == ["a/2"]


# --- runs that wait for a later turn -------------------------------------------------------------


@pytest.mark.parametrize("with_undo", [True, False])
async def test_a_run_in_a_long_wait_is_cancelled(with_undo):
    waiting = flow(get(1, "a 1", undo=undo("2")), Wait(HOUR_MS), get(2, "b 1"))
    async with stage_of(waiting) as stage:
        run_id = (await stage.send("9")).run
        await until(lambda: "WaitStarted" in stage.facts(run_id) and not stage.load.in_flight)
        done = await ask(stage, run_id, undo=with_undo)
        if not with_undo:
            assert done.state is State.CANCELLED
        assert (await stage.wait_for_outcome(run_id)).state is State.CANCELLED
        assert stage.called_endpoints() == (["a/1", "a/2"] if with_undo else ["a/1"])
        await until(lambda: is_clean(stage))


async def test_cancelling_a_run_in_a_wait_frees_its_permit():
    limited = flow(Wait(HOUR_MS), get(1, "a 1"), queueing=QueueSettings(limit=1))
    async with stage_of(limited) as stage:
        first, second = [(await stage.send("9")).run for _ in range(2)]
        await until(lambda: "WaitStarted" in stage.facts(first))
        await ask(stage, first)
        await until(lambda: "WaitStarted" in stage.facts(second))
        await ask(stage, second)
        assert is_clean(stage)


# --- runs in flight ------------------------------------------------------------------------------


async def test_a_running_run_ends_after_its_current_step_and_is_undone():
    async with stage_of(HELD) as stage:
        release = stage.block_calls("slow/1")
        run_id = await begin(stage)
        done = await ask(stage, run_id)
        assert done.state is State.RUNNING
        assert "CancelRequested" in stage.facts(run_id)
        release.set()
        outcome = await stage.wait_for_outcome(run_id)
        assert (outcome.state, outcome.reason) == (State.CANCELLED, "anna cancelled the run")
        assert stage.called_endpoints() == ["a/1", "slow/1", "a/2"]
        assert stage.facts(run_id)[-4:] == ["Finished", "Stopping", "StepUndone", "Settled"]
        await until(lambda: is_clean(stage))


async def test_with_cut_the_call_in_flight_ends_at_once():
    async with stage_of(HELD) as stage:
        stage.block_calls("slow/1")
        run_id = await begin(stage)
        await ask(stage, run_id, cut=True)
        assert (await stage.wait_for_outcome(run_id)).state is State.CANCELLED
        assert stage.called_endpoints() == ["a/1", "slow/1", "a/2"]
        await until(lambda: is_clean(stage))
        assert (await stage.send("9")).run  # the worker goes on
        await until(lambda: stage.called_endpoints().count("slow/1") == 2)
        stage.node.kill()


async def test_without_undo_the_finished_steps_stay():
    async with stage_of(HELD) as stage:
        stage.block_calls("slow/1")
        run_id = await begin(stage)
        await ask(stage, run_id, cut=True, undo=False)
        assert (await stage.wait_for_outcome(run_id)).state is State.CANCELLED
        assert stage.called_endpoints() == ["a/1", "slow/1"]
        assert "Stopping" not in stage.facts(run_id)


async def test_a_cut_call_that_must_not_be_made_twice_is_named_in_the_reason():
    once = flow(get(1, "once 1"), get(2, "a 1"))
    async with stage_of(once) as stage:
        stage.block_calls("once/1")
        run_id = await begin(stage, "once/1")
        await ask(stage, run_id, cut=True)
        outcome = await stage.wait_for_outcome(run_id)
        assert outcome.reason == "anna cancelled the run, and call 1 may have been made"


async def test_a_run_that_waits_for_its_next_attempt_is_cancelled_at_once():
    retried = flow(get(1, "b 1", retry=Retry(9, HOUR_MS)))
    async with stage_of(retried) as stage:
        stage.set_errors("b/1", ConnectFailed("refused"))
        run_id = (await stage.send("9")).run
        await until(lambda: "StepFailed" in stage.facts(run_id))
        await ask(stage, run_id)
        assert (await stage.wait_for_outcome(run_id)).state is State.CANCELLED
        assert stage.called_endpoints() == ["b/1"]


async def test_a_run_whose_last_step_fails_after_the_request_ends_as_cancelled():
    async with stage_of(flow(get(1, "slow 1"))) as stage:
        release = stage.block_calls("slow/1")
        run_id = await begin(stage)
        await ask(stage, run_id)
        release.set()
        assert (await stage.wait_for_outcome(run_id)).state is State.CANCELLED


async def test_a_request_without_cut_can_be_followed_by_one_with_cut():
    async with stage_of(HELD) as stage:
        stage.block_calls("slow/1")
        run_id = await begin(stage)
        await ask(stage, run_id)
        with pytest.raises(WrongState, match=r"anna has already asked to cancel .* with `cut`"):
            await ask(stage, run_id, "ben", "r2")
        await ask(stage, run_id, "ben", "r3", cut=True)
        outcome = await stage.wait_for_outcome(run_id)
        assert (outcome.state, outcome.reason) == (State.CANCELLED, "ben cancelled the run")


async def test_the_same_request_again_changes_nothing():
    async with stage_of(HELD) as stage:
        release = stage.block_calls("slow/1")
        run_id = await begin(stage)
        first, second = await asyncio.gather(ask(stage, run_id), ask(stage, run_id))
        assert (first.repeated, second.repeated) == (False, True)
        release.set()
        await stage.wait_for_outcome(run_id)
        assert stage.facts(run_id).count("CancelRequested") == 1


async def test_a_run_whose_steps_are_being_undone_is_not_cancelled():
    async with stage_of(HELD) as stage:
        stage.set_answer("slow/1", "no", 500)
        release = stage.block_calls("a/2")
        run_id = await begin(stage, "a/2")
        with pytest.raises(WrongState, match="ends as failed, and its finished steps are being"):
            await ask(stage, run_id)
        release.set()
        assert (await stage.wait_for_outcome(run_id)).state is State.FAILED


async def test_an_expired_deadline_does_not_change_how_a_cancelled_run_ends():
    timed = flow(get(1, "slow 1"), get(2, "a 1"), deadline_ms=HOUR_MS)
    async with stage_of(timed) as stage:
        stage.block_calls("slow/1")
        run_id = await begin(stage)
        await ask(stage, run_id)
        stage.clock.ms += HOUR_MS
        await stage.node.watch_clock()
        assert (await stage.wait_for_outcome(run_id)).state is State.CANCELLED


@pytest.mark.parametrize("cut", [True, False])
async def test_all_concurrent_steps_of_a_dataflow_end(cut):
    parallel = flow(
        get(1, "a 1", undo=undo("2")), get(2, "slow 1"), Wait(HOUR_MS),
        post(3, "b 1", Result(2)), order=Order.DATAFLOW,
    )  # fmt: skip
    async with stage_of(parallel) as stage:
        release = stage.block_calls("slow/1")
        run_id = (await stage.send("9")).run
        await until(lambda: stage.facts(run_id).count("Finished") == 1)
        await until(lambda: "slow/1" in stage.called_endpoints())
        await ask(stage, run_id, cut=cut)
        release.set()
        outcome = await stage.wait_for_outcome(run_id)
        assert outcome.state is State.CANCELLED
        assert outcome.reason.endswith("call 2 may have been made") is cut
        assert sorted(stage.called_endpoints()) == ["a/1", "a/2", "slow/1"]
        assert "StepFailed" not in stage.facts(run_id)
        await until(lambda: is_clean(stage))


@pytest.mark.parametrize("cut", [True, False])
async def test_no_other_element_of_a_foreach_begins(cut):
    listed = flow(post(1, "slow 1", Payload(), foreach=each(Payload(), 2)), get(2, "a 1"))
    async with stage_of(listed) as stage:
        release = stage.block_calls("slow/1")
        run_id = await begin(stage, payload=[1, 2, 3, 4])
        await until(lambda: len(stage.called_endpoints()) == 2)
        await ask(stage, run_id, cut=cut)
        release.set()
        assert (await stage.wait_for_outcome(run_id)).state is State.CANCELLED
        assert stage.called_endpoints() == ["slow/1"] * 2
        assert stage.facts(run_id).count("ElementFinished") == (0 if cut else 2)


# --- runs of RUN steps ---------------------------------------------------------------------------

CHILD = flow(get(1, "b 1", undo=undo("2")), get(2, "slow 1"), get(3, "b 1"), flow_id="8")
PARENT = flow(get(1, "a 1", undo=undo("2")), SubFlow(2, "8", items(Payload())), get(3, "a 1"))


def child_of(stage: Stage, run_id: str) -> str:
    (child_id,) = [each for each in stage.disk.runs if each != run_id]
    return child_id


@pytest.mark.parametrize("cut", [True, False])
async def test_child_runs_are_cancelled_with_their_parent(cut):
    async with stage_of(PARENT, CHILD) as stage:
        release = stage.block_calls("slow/1")
        run_id = await begin(stage)
        await ask(stage, run_id, cut=cut)
        release.set()
        assert (await stage.wait_for_outcome(run_id)).state is State.CANCELLED
        child_id = child_of(stage, run_id)
        assert stage.state(child_id) is State.CANCELLED
        assert stage.called_endpoints() == ["a/1", "b/1", "slow/1", "b/2", "a/2"]
        await until(lambda: is_clean(stage))


async def test_a_child_run_is_not_cancelled_alone():
    async with stage_of(PARENT, CHILD) as stage:
        release = stage.block_calls("slow/1")
        run_id = await begin(stage)
        with pytest.raises(WrongState, match=f"is a part of run {run_id}: cancel run {run_id}"):
            await ask(stage, child_of(stage, run_id))
        release.set()
        assert (await stage.wait_for_outcome(run_id)).state is State.SUCCEEDED


async def test_a_run_whose_child_waits_is_cancelled_with_its_child():
    child = flow(get(1, "b 1", undo=undo("2")), Wait(HOUR_MS), flow_id="8")
    async with stage_of(PARENT, child) as stage:
        run_id = (await stage.send("9")).run
        await until(lambda: len(stage.disk.runs) == 2 and not stage.load.in_flight)
        await ask(stage, run_id)
        assert (await stage.wait_for_outcome(run_id)).state is State.CANCELLED
        assert stage.state(child_of(stage, run_id)) is State.CANCELLED
        assert stage.called_endpoints() == ["a/1", "b/1", "b/2", "a/2"]
        await until(lambda: is_clean(stage))


async def test_a_step_that_waits_for_a_permit_is_cancelled():
    child = flow(get(1, "slow 1"), flow_id="8", queueing=QueueSettings(limit=1))
    async with stage_of(PARENT, child) as stage:
        release = stage.block_calls("slow/1")
        holder = await begin(stage, flow_id="8")
        run_id = (await stage.send("9")).run
        await until(lambda: "Finished" in stage.facts(run_id) and stage.load.in_flight == 1)
        await ask(stage, run_id)
        assert (await stage.wait_for_outcome(run_id)).state is State.CANCELLED
        release.set()
        assert (await stage.wait_for_outcome(holder)).state is State.SUCCEEDED
        await until(lambda: is_clean(stage))


# --- runs that cannot be cancelled here ---------------------------------------------------------


async def test_an_offered_run_is_refused_with_the_way_out():
    async with Stage() as stage:
        stage.balancer.answer, stage.peers.answer_offer = "3", peer(SILENT)
        run_id = (await stage.send("2")).run
        await until(lambda: stage.state(run_id) is State.OFFERED)
        with pytest.raises(AtOtherNode, match="is offered to node 3, which may have it") as raised:
            await ask(stage, run_id)
        assert (raised.value.node, raised.value.state) == ("3", State.OFFERED)


async def test_a_run_that_is_placed_elsewhere_but_not_offered_yet_is_cancelled():
    async with Stage() as stage:
        asked = asyncio.Event()
        answer = asyncio.Event()

        async def describe(_node):
            asked.set()
            await answer.wait()

        stage.balancer.answer, stage.peers.describe = "2", describe
        run_id = (await stage.send("2")).run
        await asked.wait()
        await ask(stage, run_id)
        answer.set()
        assert (await stage.wait_for_outcome(run_id)).state is State.CANCELLED
        assert stage.peers.offers == []


async def test_a_run_that_has_ended_is_refused_with_its_end():
    async with Stage() as stage:
        run_id = (await stage.send()).run
        await stage.wait_for_outcome(run_id)
        with pytest.raises(WrongState, match="has ended as succeeded at 1970-01-01 00:16:40 UTC"):
            await ask(stage, run_id)


async def test_the_same_request_again_after_the_end_gives_the_same_result():
    async with Stage() as stage:
        stage.node.pause(True)
        run_id = (await stage.send()).run
        await ask(stage, run_id)
        again = await ask(stage, run_id)
        assert (again.state, again.repeated) == (State.CANCELLED, True)
        with pytest.raises(WrongState, match=r"has ended as cancelled at .*, as anna asked"):
            await ask(stage, run_id, "ben", "r2")


async def test_a_run_that_does_not_exist_is_not_cancelled():
    async with Stage() as stage:
        with pytest.raises(NoSuchTarget):
            await ask(stage, "no such run")


async def test_no_action_is_done_while_the_journal_is_full():
    async with Stage() as stage:
        stage.node.pause(True)
        run_id = (await stage.send()).run
        stage.journal.full = True
        with pytest.raises(CannotActNow, match="the journal cannot be written"):
            await ask(stage, run_id)
        stage.journal.full = False
        assert (await ask(stage, run_id)).state is State.CANCELLED
