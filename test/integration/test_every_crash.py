"""A flow with every kind of step, ended like kill -9 after each of its transactions."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest

from fractal_rm.adapters.memory.journal import Disk, MemoryJournal
from fractal_rm.domain.call import Reply
from fractal_rm.domain.expression import Item, Literal, Payload, Result
from fractal_rm.domain.flow import Durable, Order, Publish, Respond, Retry, SubFlow, Wait
from fractal_rm.domain.run import ElementFinished, Finished, Run, State, Undone, fold, undo_name
from fractal_rm.domain.trigger import Arrival, Source
from steps import each, flow, get, items, post, undo
from worlds import URL, ManualClock, Stage, until

CHILD = flow(
    post(1, "b 1", Payload()),
    Wait(1),
    post(2, "b 2", Item(), each=each(Payload(), 2)),
    Respond(items(Result(2))),
    flow_id="8",
    durable=Durable.STEP,
)


def every_kind(order: Order, *, fails: bool):
    """Calls, one that is tried again, a FOREACH, a RUN, and every step without a number."""
    last = (get(6, "slow 1"),) if fails else ()
    return flow(
        get(1, "a 1", undo=undo("2", Result(1))),
        post(2, "a 2", Item(), each=each(Result(1), 2), undo=undo("2")),
        Wait(1),
        Publish("alerts", items(Result(1))),
        get(3, "b 1", when=Literal(False), undo=undo("2")),
        SubFlow(4, "8", items(Result(1, "@"))),
        post(5, "once 1", Result(4), retry=Retry(3, 1), undo=undo("2")),
        Respond(items(Result(4), Result(5))),
        *last,
        durable=Durable.STEP,
        order=order,
    )


class MortalJournal(MemoryJournal):
    """Takes so many transactions, and then nothing: as a process that is killed.

    ``told`` says whether whoever waits for the last of them still hears that it is durable.
    """

    def __init__(self, disk: Disk, lives: int, *, told: bool) -> None:
        super().__init__(disk)
        self.lives = lives
        self._told = told
        self.died = asyncio.Event()

    async def _accept(self, entry):
        if not self._live():
            await asyncio.Event().wait()
        prior = await super()._accept(entry)
        return await self._heard(prior)

    def _flush(self) -> None:
        if not self._live():
            return
        last = self.lives == 0
        if last and not self._told:
            self._write_behind()
        else:
            super()._flush()

    async def _heard(self, prior):
        if self.lives == 0 and not self._told:
            await asyncio.Event().wait()
        return prior

    def _live(self) -> bool:
        if self.lives == 0:
            return False
        self.lives -= 1
        if self.lives == 0:
            self.died.set()
        return True


class World:
    """Components that outlive the nodes, and what they were asked."""

    def __init__(self, *, fails: bool) -> None:
        self.asked: Counter[str] = Counter()
        self._fails = fails

    async def answer(self, request):
        key = request.headers["idempotency-key"]
        self.asked[key] += 1
        await asyncio.sleep(0)
        name = request.url.removeprefix(URL + "/")
        if name == "slow/1" and self._fails:
            return Reply(500, (), b"no")
        if name == "once/1" and self.asked[key] <= 2:
            return Reply(503, (), b"not yet")
        return Reply(200, (), b"[1, 2, 3]" if name == "a/1" else request.body or name.encode())

    def stage(self, disk: Disk, clock: ManualClock, one) -> Stage:
        stage = Stage(disk, clock, flows={each.id: each for each in (one, CHILD)})
        components = {
            name: component if name != "once" else _idempotent(component)
            for name, component in stage.world.config.components.items()
        }
        stage.world.config = _replaced(stage.world.config, components=components)
        for name in ("a/1", "a/2", "b/1", "b/2", "once/1", "once/2", "slow/1"):
            stage.components.answers[f"{URL}/{name}"] = self.answer
        return stage


def _idempotent(component):
    return _replaced(component, idempotent=True)


def _replaced(struct, **changes):
    from msgspec.structs import replace

    return replace(struct, **changes)


def finished(disk: Disk) -> set[str]:
    """The names, as Idempotency-Keys, of the calls whose end is on the disk."""
    found = set()
    for run_id in disk.runs:
        for fact in disk.facts(run_id):
            if isinstance(fact, Finished):
                found.add(f"{run_id}:{fact.step}")
            elif isinstance(fact, ElementFinished):
                found.add(f"{run_id}:{fact.step}.{fact.element}")
            elif isinstance(fact, Undone):
                found.add(f"{run_id}:{undo_name(fact.step)}")
    return found


def told(disk: Disk, run_id: str):
    """How a run ended, without the names that differ from run to run."""
    run = fold(Run(run_id, disk.runs[run_id].flow, 0), disk.facts(run_id))
    outcome = run.outcome()
    results = [json.loads(bytes(each)) for each in outcome.results]
    return outcome.state, outcome.reason, results, outcome.reply and bytes(outcome.reply)


async def ended(stage: Stage, run_id: str) -> None:
    await until(lambda: stage.state(run_id).final)
    await until(lambda: stage.node.unfinished == 0)


async def through_a_crash(one, world: World, lives: int, *, heard: bool):
    """Run ``one``, killed after so many transactions. None: it ended before."""
    disk, clock = Disk(), ManualClock()
    stage = world.stage(disk, clock, one)
    journal = MortalJournal(disk, lives, told=heard)
    stage.journal = stage.world.journal = journal
    stage.node._lifecycle.runs._journal = journal
    await stage.node.start()
    body = json.dumps({"id_flow": "9", "payload": "p"}).encode()
    sending = asyncio.ensure_future(stage.node.receive(Arrival(Source.MQTT, body)))
    await until(lambda: journal.died.is_set() or (disk.runs and stage.node.unfinished == 0))
    if not journal.died.is_set():
        await stage.node.drain()
        return None
    for _ in range(3):
        await asyncio.sleep(0)  # what is on its way when the process dies
    stage.crash()
    sending.cancel()
    before, kept = Counter(world.asked), finished(disk)
    run_id = next(iter(disk.runs))
    stage = world.stage(disk, clock, one)
    async with stage:
        await ended(stage, run_id)
    repeated = {key for key in kept if world.asked[key] > before[key]}
    return disk, run_id, repeated


@pytest.mark.parametrize("heard", [True, False])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("order", list(Order))
async def test_whenever_it_is_killed_no_finished_call_is_repeated_and_it_ends_the_same(
    order, fails, heard
):
    one = every_kind(order, fails=fails)
    disk = Disk()
    stage = World(fails=fails).stage(disk, ManualClock(), one)
    async with stage:
        run_id = (await stage.send("9")).run
        await ended(stage, run_id)
    expected = told(disk, run_id)
    assert expected[0] is (State.FAILED if fails else State.SUCCEEDED)
    lives = 0
    while True:
        lives += 1
        world = World(fails=fails)
        came = await through_a_crash(one, world, lives, heard=heard)
        if came is None:
            break
        disk, run_id, repeated = came
        assert told(disk, run_id) == expected, f"killed after {lives}"
        assert repeated == set(), f"killed after {lives}"
        assert len(disk.runs) == 2
        assert all(kept.state.final for kept in disk.runs.values())
        tries = Counter({key: n for key, n in world.asked.items() if not key.endswith(":5")})
        assert max(tries.values()) <= 2
    assert lives > 20
