"""Observers are called with every written fact. An observer that raises cannot break a run."""

from __future__ import annotations

from engine_stage import Stage
from fractal_rm.domain.facts import Accepted, Dead, Finished, Placed, Settled
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Arrival, TriggerSource


class Recording:
    """Records the name of each fact, and the state of the run after it."""

    def __init__(self, *kinds: type) -> None:
        self.kinds = frozenset(kinds)
        self.facts: list[tuple[str, State]] = []

    def written(self, run, fact, at_ms):
        assert at_ms > 0
        self.facts.append((type(fact).__name__, run.state))


class Broken:
    """Raises an exception for each fact."""

    kinds = frozenset({Placed, Settled})

    def __init__(self) -> None:
        self.calls = 0

    def written(self, run, fact, at_ms):
        self.calls += 1
        raise RuntimeError("nobody expected this")


async def test_an_observer_is_called_with_each_fact_of_its_kinds_in_order():
    every = Recording(Accepted, Placed, Finished, Settled)
    async with Stage(observers=(every,)) as stage:
        outcome = await stage.run("2")
    assert outcome.state is State.SUCCEEDED
    names = [name for name, _ in every.facts]
    assert names == ["Accepted", "Placed", "Finished", "Settled"]
    assert every.facts[-1] == ("Settled", State.SUCCEEDED)


async def test_an_observer_is_not_called_with_facts_of_other_kinds():
    ends = Recording(Settled)
    async with Stage(observers=(ends,)) as stage:
        await stage.run("2")
    assert ends.facts == [("Settled", State.SUCCEEDED)]


async def test_an_observer_that_raises_is_removed_and_the_run_succeeds():
    broken, ends = Broken(), Recording(Settled)
    async with Stage(observers=(broken, ends)) as stage:
        outcomes = [await stage.run("2") for _ in range(2)]
        assert stage.telemetry.events.count("observer_removed") == 1
    assert [outcome.state for outcome in outcomes] == [State.SUCCEEDED] * 2
    assert broken.calls == 1
    assert len(ends.facts) == 2


async def test_an_observer_is_called_with_the_fact_of_a_dead_letter():
    dead = Recording(Dead)
    async with Stage(observers=(dead,)) as stage:
        arrival = Arrival(TriggerSource.MQTT, b"no JSON")
        await stage.node.set_aside(arrival, Malformed("not JSON"))
    assert dead.facts == [("Dead", State.DEAD)]


async def test_an_observer_that_is_added_later_is_called_from_then_on_until_it_is_removed():
    ends, broken = Recording(Settled, Finished), Broken()
    async with Stage() as stage:
        observers = stage.dependencies.observers
        await stage.run("2")
        observers.add(ends)
        await stage.run("2")
        observers.remove(ends)
        observers.remove(ends)
        await stage.run("2")
    assert [name for name, _ in ends.facts] == ["Finished", "Settled"]
    assert Finished not in observers.kinds
    assert broken.calls == 0
