"""Runs after a crash, a drain or an internal error, with in-memory adapters."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from engine_stage import UNSENT, ManualClock, Stage, peer, settle, until
from fractal_rm.adapters.memory.journal import JournalContent
from fractal_rm.config.model import Bounds
from fractal_rm.domain.call_errors import ConnectFailed
from fractal_rm.domain.facts import Placed, Restarted
from fractal_rm.domain.refusals import Draining
from fractal_rm.domain.state import State

HOUR_MS = 3_600_000


async def crash_during_call(
    flow: str, endpoint: str, disk: JournalContent, clock: ManualClock
) -> str:
    """Crash a node while a run calls ``endpoint``. Returns the id of the run."""
    stage = Stage(disk, clock)
    await stage.node.start()
    stage.block_calls(endpoint)
    accepted = await stage.send(flow)
    await until(lambda: stage.called_endpoints()[-1:] == [endpoint])
    await settle()  # until earlier facts are durable
    stage.crash()
    return accepted.run


async def test_after_a_crash_a_run_resumes_at_the_first_unfinished_step_with_the_same_key():
    disk, clock = JournalContent(), ManualClock()
    run_id = await crash_during_call("1", "b/1", disk, clock)
    async with Stage(disk, clock) as stage:
        await until(lambda: disk.runs[run_id].state is State.SUCCEEDED)
        assert stage.called_endpoints() == ["b/1", "a/1"]
        assert stage.components.requests[0].headers["idempotency-key"] == f"{run_id}:2"
        assert stage.components.requests[0].body == b'{"payload": ["from a/1"]}'


async def test_after_a_crash_a_run_that_made_calls_here_is_not_offered():
    """After the crash, the balancer names another node. A failed call counts as a call."""
    disk, clock = JournalContent(), ManualClock()
    stage = Stage(disk, clock)
    await stage.node.start()
    stage.set_errors("b/2", ConnectFailed("refused"))
    accepted = await stage.send("2")
    await until(lambda: "StepFailed" in stage.facts(accepted.run))
    stage.crash()
    stage = Stage(disk, clock)
    stage.balancer.answer = "2"
    stage.peers.answer_offer = peer("receipt")
    async with stage:
        await until(lambda: disk.runs[accepted.run].state is State.SUCCEEDED)
        assert stage.peers.offers == []


async def test_after_a_crash_a_run_that_was_placed_here_is_not_offered():
    disk, clock = JournalContent(), ManualClock()
    run_id = await crash_during_call("2", "b/2", disk, clock)
    stage = Stage(disk, clock)
    stage.balancer.answer = "2"
    async with stage:
        await until(lambda: disk.runs[run_id].state is State.SUCCEEDED)
        assert stage.peers.offers == []


async def test_a_crash_does_not_count_as_an_attempt_of_a_waiting_run():
    disk, clock = JournalContent(), ManualClock()
    stage = Stage(disk, clock)
    await stage.node.start()
    stage.node.pause(True)
    run_id = (await stage.send("2")).run
    stage.crash()
    async with Stage(disk, clock, bounds=Bounds(max_attempts=1)):
        await until(lambda: disk.runs[run_id].state is State.SUCCEEDED)


async def test_a_crash_in_a_call_that_is_not_idempotent_leaves_the_run_unknown():
    disk, clock = JournalContent(), ManualClock()
    run_id = await crash_during_call("3", "once/1", disk, clock)
    async with Stage(disk, clock) as stage:
        await until(lambda: disk.runs[run_id].state is State.UNKNOWN)
        assert stage.called_endpoints() == []
        assert "its answer was lost" in disk.facts(run_id)[-1].reason


async def test_a_run_that_crashes_the_process_is_a_dead_letter_after_three_attempts():
    disk, clock = JournalContent(), ManualClock()
    run_id = await crash_during_call("4", "slow/1", disk, clock)
    for _ in range(2):
        stage = Stage(disk, clock)
        stage.block_calls("slow/1")
        await stage.node.start()
        await until(lambda stage=stage: stage.called_endpoints() == ["slow/1"])
        stage.crash()
    attempts = [fact.attempt for fact in disk.facts(run_id) if isinstance(fact, Restarted)]
    assert attempts == [2, 3]
    async with Stage(disk, clock) as stage:
        await until(lambda: disk.runs[run_id].state is State.DEAD)
        assert stage.called_endpoints() == []
    assert disk.facts(run_id)[-1].code == "attempts"


async def test_all_runs_of_a_burst_are_in_flight_when_their_component_is_slow():
    async with Stage() as stage:
        release = stage.block_calls("slow/1")
        for _ in range(200):
            await stage.send("4")
        await until(lambda: len(stage.called_endpoints()) == 200)
        release.set()


async def test_an_attempt_is_counted_before_its_first_call():
    disk, clock = JournalContent(), ManualClock()
    run_id = await crash_during_call("4", "slow/1", disk, clock)
    stage = Stage(disk, clock)
    stage.block_calls("slow/1")
    await stage.node.start()
    await until(lambda: stage.called_endpoints() == ["slow/1"])
    assert "Restarted" in stage.facts(run_id)
    stage.crash()


async def test_a_drain_does_not_count_as_an_attempt_of_a_run_in_flight():
    disk, clock = JournalContent(), ManualClock()
    for _ in range(5):
        stage = Stage(disk, clock, bounds=Bounds(drain_s=0.01))
        stage.block_calls("slow/1")
        async with stage:
            if not disk.runs:
                await stage.send("4")
            await until(lambda stage=stage: stage.called_endpoints() == ["slow/1"])
    (run_id,) = disk.runs
    assert not disk.runs[run_id].state.final
    assert not any(isinstance(fact, Restarted) for fact in disk.facts(run_id))


async def test_after_a_crash_an_old_run_is_parked_until_it_is_released():
    disk, clock = JournalContent(), ManualClock()
    run_id = await crash_during_call("2", "b/2", disk, clock)
    clock.ms += HOUR_MS + 1_000
    async with Stage(disk, clock) as stage:
        await until(lambda: disk.runs[run_id].state is State.PARKED)
        new_trigger = await stage.send("2")
        await until(lambda: disk.runs[new_trigger.run].state is State.SUCCEEDED)
        assert stage.called_endpoints() == ["b/2"]
    async with Stage(disk, clock) as stage:
        await settle()
        assert disk.runs[run_id].state is State.PARKED
        assert stage.node.release_parked() == 1
        await until(lambda: disk.runs[run_id].state is State.SUCCEEDED)


async def test_after_a_crash_an_unanswered_offer_is_repeated_with_the_same_epoch():
    disk, clock = JournalContent(), ManualClock()
    stage = Stage(disk, clock)
    stage.balancer.answer = "3"
    offered = asyncio.Event()

    async def never_answer(*_):
        offered.set()
        await asyncio.Event().wait()

    stage.peers.answer_offer = never_answer
    await stage.node.start()
    accepted = await stage.send("2")
    await offered.wait()
    stage.crash()
    stage = Stage(disk, clock)
    stage.peers.answer_offer = peer("receipt")
    async with stage:
        await until(lambda: disk.runs[accepted.run].state is State.HANDED_OFF)
        assert stage.peers.offers == [("3", accepted.run, 1)]
        assert stage.balancer.ask_count == 0


async def test_a_run_keeps_its_flow_when_the_configuration_changes():
    async with Stage() as stage:
        release = stage.block_calls("a/1")
        accepted = await stage.send("1")
        await until(lambda: stage.called_endpoints() == ["a/1"])
        flows = dict(stage.dependencies.config.flows)
        flows["1"] = msgspec.structs.replace(flows["2"], id="1")
        await stage.node.reconfigure(
            msgspec.structs.replace(stage.dependencies.config, flows=flows)
        )
        release.set()
        await stage.wait_for_outcome(accepted.run)
        assert stage.called_endpoints() == ["a/1", "b/1", "a/1"]
        await stage.run("1")
        assert stage.called_endpoints()[3:] == ["b/2"]


async def test_a_drain_finishes_runs_in_flight_and_leaves_waiting_runs_in_the_journal():
    disk = JournalContent()
    bounds = Bounds(max_inflight_runs=3)
    stage = Stage(disk, bounds=bounds)
    await stage.node.start()
    release = stage.block_calls("slow/1")
    accepted = [await stage.send("4") for _ in range(5)]
    await until(lambda: len(stage.called_endpoints()) == 2)
    draining = asyncio.create_task(stage.node.drain())
    await settle()
    with pytest.raises(Draining):
        await stage.send("2")
    release.set()
    await draining
    await stage.node.drain()
    states = [disk.runs[each.run].state for each in accepted]
    assert sorted(states) == sorted([State.SUCCEEDED] * 2 + [State.ACCEPTED] * 3)
    assert disk.clean


async def test_an_internal_error_makes_its_run_a_dead_letter_and_other_runs_continue():
    async with Stage() as stage:
        stage.set_errors("b/1", RuntimeError("a bug"))
        accepted = await stage.send("1")
        await until(lambda: stage.state(accepted.run) is State.DEAD)
        assert "a bug" in stage.disk.facts(accepted.run)[-1].reason
        assert (await stage.run("2")).state is State.SUCCEEDED


async def test_every_accepted_trigger_is_placed_and_settled():
    async with Stage() as stage:
        stage.balancer.answer = "2"
        stage.peers.answer_offer = peer("receipt", UNSENT)
        for flow in "1234":
            stage.set_answer("slow/1", "no", 500)
            await stage.run(flow)
        assert stage.node.unfinished == 0
        assert all(run.state.final for run in stage.disk.runs.values())
        assert len(stage.ended_runs.settled) == 4
        for run_id in stage.disk.runs:
            assert any(isinstance(fact, Placed) for fact in stage.disk.facts(run_id))
