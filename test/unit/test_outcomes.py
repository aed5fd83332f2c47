"""The outcome of a run is returned when the outcome is durable, and is kept for a short time."""

from __future__ import annotations

import asyncio

from engine_stage import Stage, until
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.outcomes import MAX_ENDED, MAX_ENDED_BYTES, Outcomes


def ended(run_id: str, size: int = 2) -> Run:
    run = Run(run_id, Flow("1"), 0)
    run.payload_bytes = size
    run.state = State.SUCCEEDED
    return run


class Durable:
    """An awaitable that is complete when ``done`` is set. It may be awaited several times."""

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


async def test_an_outcome_is_returned_only_when_it_is_durable():
    durable = Durable()
    outcomes = Outcomes(OpenRuns())
    assert outcomes.add_ended(ended("a"), durable) is None
    waiting = asyncio.ensure_future(outcomes.wait("a", 10))
    assert await outcomes.wait("a", 0) is None
    durable.done.set()
    outcome = await waiting
    assert outcome is not None
    assert outcome.run == "a"


async def test_a_bounded_number_of_ended_runs_is_remembered():
    outcomes, durable = Outcomes(OpenRuns()), Durable()
    durable.done.set()
    for number in range(MAX_ENDED + 1):
        outcomes.add_ended(ended(str(number)), durable)
    assert await outcomes.wait("0", 1) is None
    assert await outcomes.wait("1", 1) is not None


async def test_the_remembered_runs_have_a_bounded_number_of_bytes():
    outcomes, durable = Outcomes(OpenRuns()), Durable()
    durable.done.set()
    outcomes.add_ended(ended("small"), durable)
    outcomes.add_ended(ended("large", MAX_ENDED_BYTES), durable)
    assert await outcomes.wait("small", 1) is None
    assert await outcomes.wait("large", 1) is not None
    outcomes.add_ended(ended("too large", MAX_ENDED_BYTES + 1), durable)
    assert await outcomes.wait("too large", 1) is None


async def test_after_a_release_no_earlier_and_no_later_call_waits():
    runs = OpenRuns()
    runs.add(Run("a", Flow("1"), 0))
    outcomes = Outcomes(runs)
    waiting = asyncio.ensure_future(outcomes.wait("a", 60))
    await until(lambda: outcomes.waiting == 1)
    outcomes.release_all()
    assert await waiting is None
    assert await outcomes.wait("a", 60) is None
