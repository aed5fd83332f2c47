"""Every fact that is written is offered to the observers, which cannot break a run."""

from __future__ import annotations

from engine_stage import Stage
from fractal_rm.domain.facts import Accepted, Finished, Placed, Settled
from fractal_rm.domain.state import State


class Recording:
    """Keeps the names of the facts that it is offered, with the state of the run after each."""

    def __init__(self, *kinds: type) -> None:
        self.kinds = frozenset(kinds)
        self.facts: list[tuple[str, State]] = []

    def written(self, run, fact, at_ms):
        assert at_ms > 0
        self.facts.append((type(fact).__name__, run.state))


class Broken:
    """Raises each time."""

    kinds = frozenset({Placed, Settled})

    def __init__(self) -> None:
        self.offered = 0

    def written(self, run, fact, at_ms):
        self.offered += 1
        raise RuntimeError("nobody expected this")


async def test_an_observer_is_offered_each_fact_of_its_kinds_in_order():
    every = Recording(Accepted, Placed, Finished, Settled)
    async with Stage(observers=(every,)) as stage:
        outcome = await stage.run("2")
    assert outcome.state is State.SUCCEEDED
    names = [name for name, _ in every.facts]
    assert names == ["Accepted", "Placed", "Finished", "Settled"]
    assert every.facts[-1] == ("Settled", State.SUCCEEDED)


async def test_a_kind_that_it_does_not_name_is_not_offered():
    ends = Recording(Settled)
    async with Stage(observers=(ends,)) as stage:
        await stage.run("2")
    assert ends.facts == [("Settled", State.SUCCEEDED)]


async def test_an_observer_that_raises_is_removed_and_the_run_ends_as_it_should():
    broken, ends = Broken(), Recording(Settled)
    async with Stage(observers=(broken, ends)) as stage:
        outcomes = [await stage.run("2") for _ in range(2)]
        assert stage.telemetry.events.count("observer_broke") == 1
    assert [outcome.state for outcome in outcomes] == [State.SUCCEEDED] * 2
    assert broken.offered == 1
    assert len(ends.facts) == 2
