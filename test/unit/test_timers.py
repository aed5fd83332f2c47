"""Timers use the steady clock, which continues while the machine is suspended."""

from __future__ import annotations

import asyncio

import pytest

from engine_stage import ManualClock
from fractal_rm.engine.timers import MAX_CANCELLED, Timers
from fractal_rm.simulation.clock import VirtualClock
from fractal_rm.simulation.loop import run_virtual

HOUR_MS = 3_600_000


def test_timers_fire_in_the_order_of_their_times():
    async def program():
        loop = asyncio.get_running_loop()
        timers, fired = Timers(VirtualClock(loop, 0)), []
        for name, left_ms in (("b", 2_000), ("c", 2_000), ("a", 1_000), ("d", HOUR_MS)):
            timers.set(left_ms, lambda name=name: fired.append((name, loop.time())))
        cancelled = timers.set(1_500, lambda: fired.append("never"))
        cancelled.cancel()
        await asyncio.sleep(2 * HOUR_MS / 1000)
        return fired

    assert run_virtual(program()) == [("a", 1), ("b", 2), ("c", 2), ("d", 3_600)]


async def test_a_timer_that_became_due_during_a_suspend_fires_at_the_next_call_of_fire_due():
    clock, fired = ManualClock(), []
    timers = Timers(clock)
    timers.set(HOUR_MS, lambda: fired.append("in an hour"))
    timers.set(3 * HOUR_MS, lambda: fired.append("in three"))
    clock.sleep(2 * HOUR_MS)
    timers.fire_due()
    assert fired == ["in an hour"]
    clock.sleep(HOUR_MS)
    timers.fire_due()
    assert fired == ["in an hour", "in three"]


async def test_a_timer_is_not_delayed_by_an_overdue_timer():
    clock, fired = ManualClock(), []
    timers = Timers(clock)
    timers.set(HOUR_MS, lambda: fired.append("in an hour"))
    clock.sleep(HOUR_MS)
    await timers.sleep(0)
    assert fired == ["in an hour"]


@pytest.mark.parametrize("jumped_ms", [50 * 365 * 24 * HOUR_MS, -HOUR_MS])
async def test_setting_the_wall_clock_fires_no_timer(jumped_ms):
    clock, fired = ManualClock(), []
    timers = Timers(clock)
    timers.set(HOUR_MS, lambda: fired.append("in an hour"))
    clock.jumped_ms = jumped_ms
    timers.fire_due()
    assert fired == []
    clock.ms += HOUR_MS
    timers.fire_due()
    assert fired == ["in an hour"]


async def test_cancelled_timers_are_removed():
    timers = Timers(ManualClock())
    active = timers.set(HOUR_MS, lambda: None)
    for _ in range(10_000):
        timers.set(HOUR_MS, lambda: None).cancel()
    assert timers.pending <= 2 * MAX_CANCELLED + 2
    active.cancel()


def test_work_that_exceeds_its_time_limit_is_cancelled_and_raises_timeout_error():
    async def program():
        timers = Timers(VirtualClock(asyncio.get_running_loop(), 0))
        assert await timers.within(2_000, asyncio.sleep(1, "done")) == "done"
        with pytest.raises(asyncio.TimeoutError):
            await timers.within(2_000, asyncio.sleep(3_600))
        events: list[str] = []

        async def work():
            events.append("begun")

        with pytest.raises(asyncio.TimeoutError):
            await timers.within(0, work())
        return events, asyncio.get_running_loop().time()

    assert run_virtual(program()) == ([], 3)


def test_cancelling_the_caller_cancels_the_work_and_raises_no_timeout_error():
    async def program():
        timers = Timers(VirtualClock(asyncio.get_running_loop(), 0))
        work = asyncio.get_running_loop().create_future()
        caller = asyncio.create_task(timers.within(HOUR_MS, work))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        return work.cancelled()

    assert run_virtual(program())
