"""LIMIT and RUN after a crash: runs that held permits before the crash get the permits again."""

from __future__ import annotations

import pytest

from engine_stage import ManualClock, Stage, until
from fractal_rm.adapters.memory.journal import JournalContent
from fractal_rm.config.model import Bounds
from fractal_rm.domain.flow import Flow, Order, QueueSettings, SubFlow, Wait
from fractal_rm.domain.state import State
from steps import flow, get

ONE_AT_A_TIME = QueueSettings(limit=1)
LIMITED = flow(get(1, "b 1"), flow_id="8", queueing=ONE_AT_A_TIME)
PARENT = flow(SubFlow(1, "8"), get(2, "a 1"), flow_id="7")


def stage_of(*flows: Flow, **changes: object) -> Stage:
    return Stage(flows={each.id: each for each in flows}, **changes)


def in_flight(stage: Stage) -> int:
    return stage.load.in_flight


async def test_after_a_crash_a_child_run_still_holds_its_permit():
    disk, clock = JournalContent(), ManualClock()
    child = flow(Wait(60_000), get(1, "b 1"), flow_id="8", queueing=ONE_AT_A_TIME)
    stage = stage_of(PARENT, child, disk=disk, clock=clock)
    await stage.node.start()
    parent = (await stage.send("7")).run
    await until(lambda: any("WaitStarted" in stage.facts(each) for each in disk.runs))
    stage.crash()
    async with stage_of(PARENT, child, disk=disk, clock=clock) as stage:
        new_run = (await stage.send("8")).run
        await until(lambda: stage.load.waiting == 2 and not in_flight(stage))
        assert stage.facts(new_run) == ["Accepted"]
        clock.ms += 60_000
    async with stage_of(PARENT, child, disk=disk, clock=clock) as stage:
        assert (await stage.wait_for_outcome(parent)).state is State.SUCCEEDED


@pytest.mark.parametrize("order", list(Order))
async def test_a_crash_does_not_count_as_an_attempt_of_a_run_that_only_waited(order):
    disk, clock = JournalContent(), ManualClock()
    child = flow(Wait(60_000), get(1, "b 1"), flow_id="8", queueing=ONE_AT_A_TIME)
    flows = flow(SubFlow(1, "8"), flow_id="7", order=order), child
    stage = stage_of(*flows, disk=disk, clock=clock)
    await stage.node.start()
    for _ in range(3):
        await stage.send("7")
    for _ in range(4):
        queue, load = stage.queue, stage.load
        await until(
            lambda queue=queue, load=load: (
                queue.waiting_for_permits() == {"8": 2} and not load.in_flight
            )
        )
        stage.crash()
        stage = stage_of(*flows, disk=disk, clock=clock)
        await stage.node.start()
    facts = [stage.facts(each) for each in disk.runs]
    assert sorted(each[-1] for each in facts) == ["Placed", "Placed", "Placed", "WaitStarted"]
    clock.ms += 60_000
    stage.crash()
    async with stage_of(*flows, disk=disk, clock=clock) as stage:
        await until(lambda: sum("Restarted" in stage.facts(each) for each in disk.runs) == 2)


@pytest.mark.parametrize(
    ("steps", "other_flows"),
    [
        ((Wait(20_000), SubFlow(1, "8")), ["8"]),
        ((SubFlow(1, "8"), SubFlow(2, "8")), []),
    ],
    ids=["a younger run holds the permit", "another step of the run holds the permit"],
)
async def test_a_restart_gives_permits_to_the_runs_that_held_them_at_the_crash(steps, other_flows):
    disk, clock, bounds = JournalContent(), ManualClock(), Bounds(max_attempts=1)
    child = flow(Wait(600_000), get(1, "b 1"), flow_id="8", queueing=ONE_AT_A_TIME)
    flows = flow(*steps, flow_id="7", order=Order.DATAFLOW), child
    stage = stage_of(*flows, disk=disk, clock=clock, bounds=bounds)
    await stage.node.start()
    for each in ("7", *other_flows):
        await stage.send(each)
    facts = stage.facts
    await until(
        lambda: sum("WaitStarted" in facts(each) for each in disk.runs) == 1 + len(other_flows)
    )
    clock.ms += 20_000
    stage.dependencies.timers.fire_due()
    await until(lambda: stage.queue.waiting_for_permits() == {"8": 1} and not in_flight(stage))
    stage.crash()
    async with stage_of(*flows, disk=disk, clock=clock, bounds=bounds) as stage:
        await until(lambda: stage.queue.waiting_for_permits() == {"8": 1})
        assert not any("Dead" in stage.facts(each) for each in disk.runs)


@pytest.mark.parametrize("flow_id", ["8", "7"], ids=["of a trigger", "of a RUN step"])
async def test_a_released_run_that_held_a_permit_resumes_when_the_permit_is_free(flow_id):
    disk, clock = JournalContent(), ManualClock()
    first_stage = stage_of(PARENT, LIMITED, disk=disk, clock=clock)
    await first_stage.node.start()
    first_stage.block_calls("b/1")
    old_run = (await first_stage.send(flow_id)).run
    await until(first_stage.called_endpoints)
    first_stage.crash()
    clock.ms += 2 * 3_600_000
    async with stage_of(PARENT, LIMITED, disk=disk, clock=clock) as stage:
        release = stage.block_calls("b/1")
        new_run = (await stage.send("8")).run
        await until(stage.called_endpoints)
        for _ in range(2):  # the first release does not begin the run, so it is still parked
            assert stage.node.release_parked() == 1
        release.set()
        for run in (new_run, old_run):
            assert (await stage.wait_for_outcome(run)).state is State.SUCCEEDED
        assert stage.facts(old_run).count("Released") == 1


@pytest.mark.parametrize("flow_id", ["8", "7"], ids=["of a trigger", "of a RUN step"])
async def test_an_adopted_run_resumes_when_its_permit_is_free(flow_id):
    first_stage = stage_of(PARENT, LIMITED)
    await first_stage.node.start()
    first_stage.block_calls("b/1")
    old_run = (await first_stage.send(flow_id)).run
    await until(first_stage.called_endpoints)
    first_stage.crash()
    async with stage_of(PARENT, LIMITED) as stage:
        release = stage.block_calls("b/1")
        new_run = (await stage.send("8")).run
        await until(stage.called_endpoints)
        stage.disk.others.append(first_stage.disk)
        assert await stage.node.adopt()
        assert stage.queue.waiting_for_permits() == {"8": 1}
        for _ in range(2):  # only a second call would report an unhandled run
            assert stage.node.find_unhandled_runs() == frozenset()
        assert stage.called_endpoints() == ["b/1"]
        release.set()
        for run in (new_run, old_run):
            assert (await stage.wait_for_outcome(run)).state is State.SUCCEEDED
