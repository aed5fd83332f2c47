"""A flow with every kind of step, ended like kill -9 after each of its transactions."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter

import pytest
from msgspec.structs import replace

from fractal_rm.adapters.memory.journal import Disk, MemoryJournal
from fractal_rm.config.model import Bounds
from fractal_rm.domain.call import Reply
from fractal_rm.domain.expression import Item, Literal, Payload, Result
from fractal_rm.domain.facts import ElementFinished, Finished, Undone, undo_name
from fractal_rm.domain.flow import Durable, Order, Publish, Respond, Retry, SubFlow, Wait
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import State
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

    def _answer(self, entry, written) -> None:
        if not self._live():
            return
        if self.lives == 0 and not self._told:
            self._accept(entry)
        else:
            super()._answer(entry, written)

    def _flush(self) -> None:
        if not self._live():
            return
        last = self.lives == 0
        if last and not self._told:
            self._write_behind()
        else:
            super()._flush()

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
            return Reply(500, b"", b"no")
        if name == "once/1" and self.asked[key] <= 2:
            return Reply(503, b"", b"not yet")
        return Reply(200, b"", b"[1, 2, 3]" if name == "a/1" else request.body or name.encode())

    def stage(self, disk: Disk, clock: ManualClock, one, journal=None) -> Stage:
        patient = Bounds(max_attempts=100)  # what the kills interrupt is not at fault
        flows = {each.id: each for each in (one, CHILD)}
        stage = Stage(disk, clock, journal=journal, flows=flows, bounds=patient)
        components = {
            name: replace(component, idempotent=True)
            for name, component in stage.world.config.components.items()
        }
        stage.world.config = replace(stage.world.config, components=components)
        for name in ("a/1", "a/2", "b/1", "b/2", "once/1", "once/2", "slow/1"):
            stage.components.answers[f"{URL}/{name}"] = self.answer
        return stage


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


class Story:
    """One run of a flow over several nodes, each of them killed."""

    def __init__(self, one, *, fails: bool) -> None:
        self.one = one
        self.disk, self.clock = Disk(), ManualClock()
        self.world = World(fails=fails)
        self.repeated: set[str] = set()
        self._ended: set[str] = set()
        self._asked: Counter[str] = Counter()

    async def live(self, lives: int, *, heard: bool) -> bool:
        """One node, killed after so many transactions. Returns whether it was."""
        journal = MortalJournal(self.disk, lives, told=heard)
        stage = self.world.stage(self.disk, self.clock, self.one, journal)
        await stage.node.start()
        sending = asyncio.ensure_future(self._send(stage))
        await until(lambda: journal.died.is_set() or self._is_over(stage))
        killed = journal.died.is_set()
        if killed:
            for _ in range(3):
                await asyncio.sleep(0)  # what is on its way when the process dies
            stage.crash()
        else:
            await stage.node.drain()
        sending.cancel()
        self._look()
        return killed

    async def end(self):
        """A node that nobody kills. Returns how the run ended."""
        async with self.world.stage(self.disk, self.clock, self.one) as stage:
            await self._send(stage)
            await until(lambda: self._is_over(stage))
        self._look()
        assert len(self.disk.runs) == 2
        return told(self.disk, next(iter(self.disk.runs)))

    async def _send(self, stage: Stage) -> None:
        if not self.disk.runs:
            body = json.dumps({"id_flow": "9", "payload": "p"}).encode()
            await stage.node.receive(Arrival(Source.MQTT, body))

    def _is_over(self, stage: Stage) -> bool:
        states = [kept.state for kept in self.disk.runs.values()]
        return bool(states) and all(state.final for state in states) and not stage.node.unfinished

    def _look(self) -> None:
        """Note what was asked for again although its end was on the disk before."""
        asked = self.world.asked
        self.repeated |= {key for key in self._ended if asked[key] > self._asked[key]}
        self._ended, self._asked = finished(self.disk), Counter(asked)


@pytest.fixture(params=list(Order), ids=lambda order: order.value)
def order(request):
    return request.param


@pytest.mark.parametrize("heard", [True, False])
@pytest.mark.parametrize("fails", [False, True])
async def test_whenever_it_is_killed_no_finished_call_is_repeated_and_it_ends_the_same(
    order, fails, heard
):
    one = every_kind(order, fails=fails)
    expected = await Story(one, fails=fails).end()
    assert expected[0] is (State.FAILED if fails else State.SUCCEEDED)
    lives = 1
    while await (story := Story(one, fails=fails)).live(lives, heard=heard):
        assert await story.end() == expected, f"killed after {lives}"
        assert story.repeated == set(), f"killed after {lives}"
        tried_again = {key for key, count in story.world.asked.items() if count > 2}
        assert {key.partition(":")[2] for key in tried_again} == {"5"}  # the one that is busy
        lives += 1
    assert lives > 20


async def test_however_often_it_is_killed_no_finished_call_is_repeated(order):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for fails in (False, True):
        one = every_kind(order, fails=fails)
        expected = await Story(one, fails=fails).end()
        for _ in range(5):
            story = Story(one, fails=fails)
            while await story.live(chance.randrange(3, 12), heard=chance.random() < 0.5):
                pass
            assert await story.end() == expected
            assert story.repeated == set()
