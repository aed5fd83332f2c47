"""The outcome of a run is returned when it is durable, and remembered for a short while."""

from __future__ import annotations

import asyncio

import msgspec

from engine_stage import Stage, until
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.outcomes import MAX_ENDED, MAX_ENDED_BYTES, Outcomes


def ended(run_id: str, size: int = 2) -> Run:
    run = Run(run_id, Flow("1"), 0, payload=msgspec.Raw(b"1" * size))
    run.payload_bytes = size
    run.state = State.SUCCEEDED
    return run


class Durable:
    """An awaitable that may be awaited several times."""

    def __init__(self) -> None:
        self.done = asyncio.Event()

    def __await__(self):
        return self.done.wait().__await__()


async def test_the_outcome_of_an_ended_run_is_returned_without_reading_the_disk():
    async with Stage() as stage:
        accepted = await stage.send("2")
        await until(lambda: stage.node.unfinished == 0)
        stage.journal.full = True  # nothing can be read or written
        outcome = await stage.node.outcome(accepted.run, 10)
        stage.journal.full = False
    assert outcome is not None
    assert outcome.state is State.SUCCEEDED


async def test_an_outcome_is_not_returned_before_it_is_durable():
    written = Durable()
    outcomes = Outcomes(OpenRuns())
    assert outcomes.add_ended(ended("a"), written) is None
    waiting = asyncio.ensure_future(outcomes.wait("a", 10))
    assert await outcomes.wait("a", 0) is None
    written.done.set()
    outcome = await waiting
    assert outcome is not None
    assert outcome.run == "a"


async def test_a_bounded_number_of_ended_runs_is_remembered():
    outcomes, written = Outcomes(OpenRuns()), Durable()
    written.done.set()
    for number in range(MAX_ENDED + 1):
        outcomes.add_ended(ended(str(number)), written)
    assert await outcomes.wait("0", 1) is None
    assert await outcomes.wait("1", 1) is not None


async def test_the_remembered_runs_have_a_bounded_number_of_bytes():
    outcomes, written = Outcomes(OpenRuns()), Durable()
    written.done.set()
    outcomes.add_ended(ended("small"), written)
    outcomes.add_ended(ended("large", MAX_ENDED_BYTES), written)
    assert await outcomes.wait("small", 1) is None
    assert await outcomes.wait("large", 1) is not None
    outcomes.add_ended(ended("too large", MAX_ENDED_BYTES + 1), written)
    assert await outcomes.wait("too large", 1) is None


async def test_release_all_releases_waiters_and_later_calls_do_not_wait():
    runs = OpenRuns()
    runs.add(Run("a", Flow("1"), 0))
    outcomes = Outcomes(runs)
    waiting = asyncio.ensure_future(outcomes.wait("a", 60))
    await until(lambda: outcomes.waiting == 1)
    outcomes.release_all()
    assert await waiting is None
    assert await outcomes.wait("a", 60) is None
