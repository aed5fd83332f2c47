"""A node whose wall clock is set, or whose machine is suspended, reboots or starts in 1970."""

from __future__ import annotations

import msgspec
import pytest

from engine_stage import ManualClock, Stage, config, flows, until
from fractal_rm.adapters.memory.journal import JournalContent
from fractal_rm.domain.flow import Flow, QueueSettings, Wait
from fractal_rm.domain.run_id import is_run_id
from fractal_rm.domain.state import State

MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000
YEAR_MS = 365 * DAY_MS
NOW_MS = 1_800_000_000_000
CLOCK_CHANGES_MS = [HOUR_MS, 10 * DAY_MS, 50 * YEAR_MS, -HOUR_MS, -10 * DAY_MS, -50 * YEAR_MS]
for_each_clock_change = pytest.mark.parametrize("by_ms", CLOCK_CHANGES_MS)
BOUNDS = msgspec.structs.replace(config().bounds, dedup_window_s=3_600)
FLOW_WITH_DEADLINE = "9\nDEADLINE 10m\nTO slow 1\nGET\n"


def stage_of(
    text: str, disk: JournalContent | None = None, clock: ManualClock | None = None, **changes
):
    return Stage(disk, clock or ManualClock(NOW_MS), flows=flows(text), **changes)


async def accept_and_crash(text: str, disk: JournalContent, clock: ManualClock) -> str:
    """Accept a trigger on a paused node, and crash the node. Returns the id of the run."""
    stage = stage_of(text, disk, clock)
    await stage.node.start()
    stage.node.pause(True)
    run = (await stage.send("9")).run
    stage.crash()
    return run


# --- the wall clock is set ------------------------------------------------------------------------


@for_each_clock_change
async def test_setting_the_wall_clock_does_not_move_a_deadline(by_ms):
    clock = ManualClock(NOW_MS)
    async with stage_of(FLOW_WITH_DEADLINE, clock=clock) as stage:
        stage.block_calls("slow/1")
        run = (await stage.send("9")).run
        await until(lambda: stage.called_endpoints() == ["slow/1"])
        clock.jumped_ms = by_ms
        clock.ms += 10 * MINUTE_MS - 1
        await stage.node.watch_clock()
        assert stage.node.state_of(run) is State.ACCEPTED
        clock.ms += 1
        await stage.node.watch_clock()
        outcome = await stage.wait_for_outcome(run)
        assert outcome.state is State.EXPIRED
        assert outcome.reason.startswith("the deadline of 600 s ended")


@for_each_clock_change
async def test_a_deadline_continues_over_a_restart(by_ms):
    disk, clock = JournalContent(), ManualClock(NOW_MS)
    clock.jumped_ms = by_ms
    run = await accept_and_crash(FLOW_WITH_DEADLINE, disk, clock)
    clock.jumped_ms = 0
    clock.ms += 9 * MINUTE_MS
    async with stage_of(FLOW_WITH_DEADLINE, disk, clock) as stage:
        stage.block_calls("slow/1")
        await until(lambda: stage.called_endpoints() == ["slow/1"])
        clock.ms += MINUTE_MS
        await stage.node.watch_clock()
        assert (await stage.wait_for_outcome(run)).state is State.EXPIRED


@for_each_clock_change
async def test_setting_the_wall_clock_parks_no_run(by_ms):
    disk, clock = JournalContent(), ManualClock(NOW_MS)
    run = await accept_and_crash("9\nTO a 1\nGET\n", disk, clock)
    clock.jumped_ms = by_ms
    async with stage_of("9\nTO a 1\nGET\n", disk, clock) as stage:
        await until(lambda: stage.state(run) is State.SUCCEEDED)


@for_each_clock_change
async def test_an_old_run_is_parked_whatever_time_the_wall_clock_shows(by_ms):
    disk, clock = JournalContent(), ManualClock(NOW_MS)
    clock.jumped_ms = by_ms
    run = await accept_and_crash("9\nTO a 1\nGET\n", disk, clock)
    clock.jumped_ms = 0
    clock.ms += 10 * DAY_MS
    async with stage_of("9\nTO a 1\nGET\n", disk, clock) as stage:
        assert State.PARKED in (stage.state(run), stage.node.state_of(run))
        assert stage.node.release_parked() == 1
        await until(lambda: stage.state(run) is State.SUCCEEDED)


@for_each_clock_change
async def test_the_limit_of_stale_is_measured_on_the_steady_clock(by_ms):
    disk, clock = JournalContent(), ManualClock(NOW_MS)
    stale = QueueSettings(stale_ms=10 * MINUTE_MS)
    stale_flows = {"9": msgspec.structs.replace(config().flows["2"], id="9", queueing=stale)}
    stage = Stage(disk, clock, flows=stale_flows)
    await stage.node.start()
    stage.node.pause(True)
    runs = [(await stage.send("9")).run]
    clock.ms += 5 * MINUTE_MS
    runs.append((await stage.send("9")).run)
    stage.crash()
    clock.jumped_ms = by_ms
    clock.ms += 5 * MINUTE_MS
    async with Stage(disk, clock, flows=stale_flows) as restarted:
        await until(lambda: all(restarted.state(run).final for run in runs))
        assert [restarted.state(run) for run in runs] == [State.EXPIRED, State.SUCCEEDED]


@for_each_clock_change
async def test_a_repeated_trigger_is_a_duplicate_within_its_window(by_ms):
    clock = ManualClock(NOW_MS)
    async with stage_of("9\nTO a 1\nGET\n", clock=clock, bounds=BOUNDS) as stage:
        for jumps_ms in ((0, by_ms), (by_ms, 0)):
            clock.jumped_ms = jumps_ms[0]
            first = await stage.send("9", id="the same")
            assert not first.duplicate
            clock.jumped_ms = jumps_ms[1]
            clock.ms += HOUR_MS - 1
            repeated = await stage.send("9", id="the same")
            assert (repeated.run, repeated.duplicate) == (first.run, True)
            clock.ms += 1


@for_each_clock_change
async def test_run_ids_are_in_the_order_of_acceptance(by_ms):
    clock = ManualClock(NOW_MS)
    async with stage_of("9\nTO a 1\nGET\n", clock=clock) as stage:
        runs = []
        for jumped_ms in (0, by_ms, by_ms // 2, 0):
            clock.jumped_ms = jumped_ms
            for _ in range(3):
                clock.ms += 1
                runs.append((await stage.send("9")).run)
        assert all(map(is_run_id, runs))
        assert runs == sorted(runs)


async def test_run_ids_of_two_processes_of_a_node_are_in_the_order_of_acceptance():
    clock, text = ManualClock(NOW_MS), "9\nTO a 1\nGET\n"
    async with stage_of(text, clock=clock) as mqtt, stage_of(text, clock=clock) as api:
        runs = []
        for jumped_ms in (0, 50 * YEAR_MS, -YEAR_MS):
            clock.jumped_ms = jumped_ms
            for stage in (mqtt, api, api, mqtt):
                clock.ms += MINUTE_MS
                runs.append((await stage.send("9")).run)
        assert runs == sorted(runs)


async def test_the_duration_of_a_run_is_measured_on_the_steady_clock():
    clock = ManualClock(NOW_MS)
    async with stage_of(FLOW_WITH_DEADLINE, clock=clock) as stage:
        release = stage.block_calls("slow/1")
        run = (await stage.send("9")).run
        await until(lambda: stage.called_endpoints() == ["slow/1"])
        clock.jumped_ms = -YEAR_MS
        clock.ms += 1_234
        release.set()
        await stage.wait_for_outcome(run)
        assert stage.ended_runs.took_ms == {run: 1_234}


# --- the machine is suspended ---------------------------------------------------------------------


async def test_a_wait_ends_in_time_after_a_suspend():
    clock = ManualClock(NOW_MS)
    waiting_flow = Flow("9", steps=(Wait(10 * HOUR_MS), *flows("9\nTO a 1\nGET\n")["9"].steps))
    async with Stage(clock=clock, flows={"9": waiting_flow}) as stage:
        run = (await stage.send("9")).run
        load = stage.load
        await until(lambda: stage.facts(run)[-1] == "WaitStarted" and not load.in_flight)
        clock.sleep(10 * HOUR_MS)
        await stage.node.watch_clock()
        assert (await stage.wait_for_outcome(run)).state is State.SUCCEEDED


async def test_a_retry_is_made_in_time_after_a_suspend():
    clock = ManualClock(NOW_MS)
    async with stage_of("9\nTO a 1\nGET\n  RETRY 3\n", clock=clock) as stage:
        stage.set_answer("a/1", "busy", 503, Retry_After="300")
        run = (await stage.send("9")).run
        await until(lambda: "StepFailed" in stage.facts(run))
        stage.set_answer("a/1", "ready")
        clock.sleep(5 * MINUTE_MS)
        await stage.node.watch_clock()
        assert (await stage.wait_for_outcome(run)).state is State.SUCCEEDED


async def test_a_queued_run_is_stale_after_a_suspend():
    clock = ManualClock(NOW_MS)
    stale_flows = {"9": msgspec.structs.replace(config().flows["2"], id="9",
                                          queueing=QueueSettings(stale_ms=HOUR_MS))}  # fmt: skip
    async with Stage(clock=clock, flows=stale_flows) as stage:
        stage.node.pause(True)
        run = (await stage.send("9")).run
        clock.sleep(HOUR_MS)
        await stage.node.watch_clock()
        assert (await stage.wait_for_outcome(run)).state is State.EXPIRED


# --- a reboot -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("off_ms", "state"), [(9 * MINUTE_MS, State.SUCCEEDED), (HOUR_MS, State.EXPIRED)]
)
async def test_during_a_reboot_a_deadline_is_measured_on_the_wall_clock(off_ms, state):
    disk, clock = JournalContent(), ManualClock(NOW_MS)
    clock.jumped_ms = 3 * DAY_MS  # the wall clock is set while the machine is up
    clock.read()
    run = await accept_and_crash("9\nDEADLINE 10m\nTO a 1\nGET\n", disk, clock)
    clock.reboot(off_ms)
    async with stage_of("9\nDEADLINE 10m\nTO a 1\nGET\n", disk, clock) as stage:
        await until(lambda: stage.state(run).final)
        assert stage.state(run) is state


@for_each_clock_change
async def test_a_wait_continues_over_a_reboot_after_the_wall_clock_was_set(by_ms):
    disk, clock = JournalContent(), ManualClock(NOW_MS)
    waiting_flow = Flow("9", steps=(Wait(10 * MINUTE_MS), *flows("9\nTO a 1\nGET\n")["9"].steps))
    stage = Stage(disk, clock, flows={"9": waiting_flow})
    await stage.node.start()
    run = (await stage.send("9")).run
    await until(lambda: stage.facts(run)[-1] == "WaitStarted")
    stage.crash()
    clock.jumped_ms = by_ms
    clock.read()
    clock.reboot(5 * MINUTE_MS)
    async with Stage(disk, clock, flows={"9": waiting_flow}) as restarted:
        load = restarted.load
        await until(lambda: load.waiting == 1 and not load.in_flight)
        clock.ms += 5 * MINUTE_MS
        await restarted.node.watch_clock()
        await until(lambda: restarted.state(run) is State.SUCCEEDED)


async def test_a_node_whose_wall_clock_starts_in_1970_works_and_reports_the_clock():
    disk, clock = JournalContent(), ManualClock(NOW_MS)
    run = await accept_and_crash(FLOW_WITH_DEADLINE, disk, clock)
    clock.reboot(DAY_MS, wall_ms=30_000)
    async with stage_of(FLOW_WITH_DEADLINE, disk, clock) as stage:
        release = stage.block_calls("slow/1")
        assert stage.telemetry.events.count("wall_clock_doubtful") == 1
        (check,) = [each for each in stage.node.readiness() if each.name == "clock"]
        assert check.ok
        assert "before the release of this program" in check.text
        await until(lambda: stage.called_endpoints() == ["slow/1"])
        later = (await stage.send("9")).run
        clock.jumped_ms = 0
        release.set()
        last = (await stage.send("9")).run
        assert [(await stage.wait_for_outcome(each)).state for each in (run, later, last)] == [
            State.SUCCEEDED
        ] * 3
        assert run < later < last
        (check,) = [each for each in stage.node.readiness() if each.name == "clock"]
        assert check.text == "plausible"
