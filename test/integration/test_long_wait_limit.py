"""A run in a long wait has no slot, but counts for the LIMIT of its flow."""

from __future__ import annotations

from engine_stage import ManualClock, Stage, until
from fractal_rm.adapters.memory.journal import JournalContent
from fractal_rm.domain.flow import QueueSettings, Wait
from fractal_rm.domain.state import State
from steps import flow, get

HOUR_MS = 3_600_000


async def test_a_run_in_a_long_wait_counts_for_its_limit_even_after_a_crash():
    waiting_flow = flow(Wait(HOUR_MS), get(1, "a 1"), queueing=QueueSettings(limit=1))
    other_flow = flow(get(1, "b 1"), flow_id="8")
    disk, clock = JournalContent(), ManualClock()
    stage = Stage(disk, clock, flows={"9": waiting_flow, "8": other_flow})
    await stage.node.start()
    first = (await stage.send("9")).run
    load = stage.load
    await until(lambda: stage.facts(first)[-1] == "WaitStarted" and not load.in_flight)
    second = (await stage.send("9")).run
    assert (await stage.run("8")).state is State.SUCCEEDED
    assert stage.facts(second) == ["Accepted"]
    stage.crash()
    clock.ms += HOUR_MS - 1000
    async with Stage(disk, clock, flows={"9": waiting_flow, "8": other_flow}) as restarted:
        assert (await restarted.run("8")).state is State.SUCCEEDED
        clock.ms += 1000
        await until(lambda: restarted.state(first) is State.SUCCEEDED)
        await until(lambda: restarted.facts(second)[-1] == "WaitStarted")
