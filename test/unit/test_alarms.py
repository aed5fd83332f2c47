"""Alarms: they wait on the steady clock, of which the event loop's own misses what is suspended."""

from __future__ import annotations

import asyncio

import pytest

from fractal_rm.engine.alarms import FEW, Alarms
from fractal_rm.simulation.clock import VirtualClock
from fractal_rm.simulation.loop import run_virtual
from worlds import ManualClock

HOUR_MS = 3_600_000


def test_alarms_ring_in_the_order_of_their_moments():
    async def program():
        loop = asyncio.get_running_loop()
        alarms, rang = Alarms(VirtualClock(loop, 0)), []
        for name, left_ms in (("b", 2_000), ("c", 2_000), ("a", 1_000), ("d", HOUR_MS)):
            alarms.set(left_ms, lambda name=name: rang.append((name, loop.time())))
        cancelled = alarms.set(1_500, lambda: rang.append("never"))
        cancelled.cancel()
        await asyncio.sleep(2 * HOUR_MS / 1000)
        return rang

    assert run_virtual(program()) == [("a", 1), ("b", 2), ("c", 2), ("d", 3_600)]


async def test_what_came_due_in_a_suspend_rings_at_the_next_look():
    clock, rang = ManualClock(), []
    alarms = Alarms(clock)
    alarms.set(HOUR_MS, lambda: rang.append("in an hour"))
    alarms.set(3 * HOUR_MS, lambda: rang.append("in three"))
    clock.sleep(2 * HOUR_MS)
    alarms.look()
    assert rang == ["in an hour"]
    clock.sleep(HOUR_MS)
    alarms.look()
    assert rang == ["in an hour", "in three"]


async def test_an_alarm_does_not_wait_behind_one_that_the_loop_is_late_for():
    clock, rang = ManualClock(), []
    alarms = Alarms(clock)
    alarms.set(HOUR_MS, lambda: rang.append("in an hour"))
    clock.sleep(HOUR_MS)
    await alarms.sleep(0)
    assert rang == ["in an hour"]


@pytest.mark.parametrize("jumped_ms", [50 * 365 * 24 * HOUR_MS, -HOUR_MS])
async def test_a_wall_clock_that_is_set_rings_nothing(jumped_ms):
    clock, rang = ManualClock(), []
    alarms = Alarms(clock)
    alarms.set(HOUR_MS, lambda: rang.append("in an hour"))
    clock.jumped_ms = jumped_ms
    alarms.look()
    assert rang == []
    clock.ms += HOUR_MS
    alarms.look()
    assert rang == ["in an hour"]


async def test_alarms_that_were_cancelled_take_no_room():
    alarms = Alarms(ManualClock())
    kept = alarms.set(HOUR_MS, lambda: None)
    for _ in range(10_000):
        alarms.set(HOUR_MS, lambda: None).cancel()
    assert len(alarms._heap) <= 2 * FEW + 2
    kept.cancel()


def test_work_that_takes_too_long_is_cut_off_and_says_so():
    async def program():
        alarms = Alarms(VirtualClock(asyncio.get_running_loop(), 0))
        assert await alarms.within(2_000, asyncio.sleep(1, "done")) == "done"
        with pytest.raises(asyncio.TimeoutError):
            await alarms.within(2_000, asyncio.sleep(3_600))
        begun: list[str] = []

        async def work():
            begun.append("begun")

        with pytest.raises(asyncio.TimeoutError):
            await alarms.within(0, work())
        return begun, asyncio.get_running_loop().time()

    assert run_virtual(program()) == ([], 3)


def test_who_cancels_the_whole_cancels_the_work_and_it_is_no_timeout():
    async def program():
        alarms = Alarms(VirtualClock(asyncio.get_running_loop(), 0))
        work = asyncio.get_running_loop().create_future()
        whole = asyncio.create_task(alarms.within(HOUR_MS, work))
        await asyncio.sleep(0)
        whole.cancel()
        with pytest.raises(asyncio.CancelledError):
            await whole
        return work.cancelled()

    assert run_virtual(program())
