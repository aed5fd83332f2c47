"""Virtual time advances to the next timer when all tasks wait."""

from __future__ import annotations

import asyncio

import pytest

from fractal_rm.simulation.clock import VirtualClock
from fractal_rm.simulation.loop import Deadlocked, run_virtual
from fractal_rm.simulation.random import FixedRandom

DAY_S = 86_400


def test_a_year_of_waiting_takes_no_real_time():
    async def wait():
        await asyncio.sleep(365 * DAY_S)
        return asyncio.get_running_loop().time()

    assert run_virtual(wait()) == pytest.approx(365 * DAY_S)


def test_waits_end_in_the_order_of_their_length_at_exact_times():
    ends: list[tuple[str, float]] = []

    async def wait(name: str, s: float):
        await asyncio.sleep(s)
        ends.append((name, asyncio.get_running_loop().time()))

    async def both():
        await asyncio.gather(wait("hour", 3600), wait("half", 0.5), wait("zero", 0))

    run_virtual(both())
    assert ends == [("zero", 0), ("half", 0.5), ("hour", 3600)]


def test_a_time_limit_is_reached_in_virtual_time():
    async def limited():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.sleep(3600), 30)
        return asyncio.get_running_loop().time()

    assert run_virtual(limited()) == 30


def test_the_clock_follows_the_loop():
    async def moments():
        clock = VirtualClock(asyncio.get_running_loop(), 1_000)
        first_times = clock.now_ms(), clock.monotonic_s()
        await asyncio.sleep(1.5)
        return first_times, (clock.now_ms(), clock.monotonic_s())

    assert run_virtual(moments()) == ((1_000, 0), (2_500, 1.5))


def test_a_wait_that_can_never_end_is_an_error():
    async def forever():
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlocked):
        run_virtual(forever())


def test_tasks_that_have_not_ended_are_cancelled():
    events: list[str] = []

    async def wait():
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    async def main():
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        return task

    assert run_virtual(main()).cancelled()
    assert events == ["cancelled"]


def test_each_simulation_has_the_same_sequence_of_different_tokens():
    first, second = FixedRandom(), FixedRandom()
    tokens = [first.token(9), first.token(9)]
    assert tokens == [second.token(9), second.token(9)]
    assert tokens[0] != tokens[1]
    assert FixedRandom(seed=1).token(9) != tokens[0]
