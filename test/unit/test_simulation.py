"""Virtual time: it jumps when every task waits, and nothing else about asyncio changes."""

from __future__ import annotations

import asyncio

import pytest

from fractal_rm.simulation.loop import Stuck, run_virtual
from fractal_rm.simulation.world import EvenRandom, VirtualClock

DAY_S = 86_400


def test_a_year_of_waiting_passes_at_once():
    async def wait():
        await asyncio.sleep(365 * DAY_S)
        return asyncio.get_running_loop().time()

    assert run_virtual(wait()) == pytest.approx(365 * DAY_S)


def test_who_waits_shorter_goes_on_first_and_time_stands_still_between():
    seen: list[tuple[str, float]] = []

    async def one(name: str, s: float):
        await asyncio.sleep(s)
        seen.append((name, asyncio.get_running_loop().time()))

    async def both():
        await asyncio.gather(one("later", 3600), one("sooner", 0.5), one("at once", 0))

    run_virtual(both())
    assert seen == [("at once", 0), ("sooner", 0.5), ("later", 3600)]


def test_a_time_limit_is_reached_in_virtual_time():
    async def limited():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.sleep(3600), 30)
        return asyncio.get_running_loop().time()

    assert run_virtual(limited()) == 30


def test_the_clock_goes_with_the_loop():
    async def moments():
        clock = VirtualClock(asyncio.get_running_loop(), 1_000)
        before = clock.now_ms(), clock.monotonic_s()
        await asyncio.sleep(1.5)
        return before, (clock.now_ms(), clock.monotonic_s())

    assert run_virtual(moments()) == ((1_000, 0), (2_500, 1.5))


def test_a_program_that_waits_for_nothing_is_told_so():
    async def forever():
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Stuck):
        run_virtual(forever())


def test_tasks_that_are_left_are_cancelled():
    ended: list[str] = []

    async def left():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def main():
        task = asyncio.create_task(left())
        await asyncio.sleep(0)
        return task

    assert run_virtual(main()).cancelled()
    assert ended == ["cancelled"]


def test_tokens_differ_and_are_the_same_in_each_simulation():
    one, other = EvenRandom(), EvenRandom()
    drawn = [one.token(9), one.token(9)]
    assert drawn == [other.token(9), other.token(9)]
    assert drawn[0] != drawn[1]
    assert EvenRandom(seed=1).token(9) != drawn[0]
