"""A node executes a flow with every kind of step. It is killed after each write to its journal."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter

import pytest
from msgspec.structs import replace

from engine_stage import URL, ManualClock, Stage, until
from fractal_rm.adapters.memory.journal import JournalContent, MemoryJournal
from fractal_rm.config.model import Bounds
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.expression import Item, Literal, Payload, Result
from fractal_rm.domain.facts import ElementFinished, Finished, StepUndone, undo_request_name
from fractal_rm.domain.flow import Durability, Order, Publish, Reply, Retry, SubFlow, Wait
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Arrival, TriggerSource
from steps import each, flow, get, items, post, undo

CHILD = flow(
    post(1, "b 1", Payload()),
    Wait(1),
    post(2, "b 2", Item(), foreach=each(Payload(), 2)),
    Reply(items(Result(2))),
    flow_id="8",
    durable=Durability.STEP,
)


def flow_with_every_step(order: Order, *, fails: bool):
    """A flow with every kind of step, a call that is retried, and a FOREACH.

    If ``fails``, the last step fails.
    """
    last = (get(6, "slow 1"),) if fails else ()
    return flow(
        get(1, "a 1", undo=undo("2", Result(1))),
        post(2, "a 2", Item(), foreach=each(Result(1), 2), undo=undo("2")),
        Wait(1),
        Publish("alerts", items(Result(1))),
        get(3, "b 1", when=Literal(False), undo=undo("2")),
        SubFlow(4, "8", items(Result(1, "@"))),
        post(5, "once 1", Result(4), retry=Retry(3, 1), undo=undo("2")),
        Reply(items(Result(4), Result(5))),
        *last,
        durable=Durability.STEP,
        order=order,
    )


class Components:
    """Components that answer the calls of all nodes, and count the requests of each call."""

    def __init__(self, *, fails: bool) -> None:
        self.requests_by_key: Counter[str] = Counter()
        self._fails = fails

    async def answer(self, request):
        key = request.headers["idempotency-key"]
        self.requests_by_key[key] += 1
        await asyncio.sleep(0)
        name = request.url.removeprefix(URL + "/")
        if name == "slow/1" and self._fails:
            return HttpResponse(500, b"", b"no")
        if name == "once/1" and self.requests_by_key[key] <= 2:
            return HttpResponse(503, b"", b"not yet")
        body = b"[1, 2, 3]" if name == "a/1" else request.body
        return HttpResponse(200, b"", body or name.encode())

    def stage(self, disk: JournalContent, clock: ManualClock, main_flow, journal=None) -> Stage:
        """A node that calls these components. All of them are idempotent."""
        bounds = Bounds(max_attempts=100)  # each kill counts as an attempt
        flows = {each.id: each for each in (main_flow, CHILD)}
        stage = Stage(disk, clock, journal=journal, flows=flows, bounds=bounds)
        components = {
            name: replace(component, idempotent=True)
            for name, component in stage.dependencies.config.components.items()
        }
        stage.dependencies.config = replace(stage.dependencies.config, components=components)
        for name in ("a/1", "a/2", "b/1", "b/2", "once/1", "once/2", "slow/1"):
            stage.components.answers[f"{URL}/{name}"] = self.answer
        return stage


def finished_calls(disk: JournalContent) -> set[str]:
    """The Idempotency-Keys of all calls whose result is on the disk."""
    keys = set()
    for run_id in disk.runs:
        for fact in disk.facts(run_id):
            if isinstance(fact, Finished):
                keys.add(f"{run_id}:{fact.step}")
            elif isinstance(fact, ElementFinished):
                keys.add(f"{run_id}:{fact.step}.{fact.element}")
            elif isinstance(fact, StepUndone):
                keys.add(f"{run_id}:{undo_request_name(fact.step)}")
    return keys


def outcome_of(disk: JournalContent, run_id: str) -> tuple[State, str, list, bytes | None]:
    """The state, the reason, the results and the reply of a run."""
    run = fold(Run(run_id, disk.runs[run_id].flow, 0), disk.facts(run_id))
    outcome = run.outcome()
    results = [json.loads(bytes(each)) for each in outcome.results]
    return outcome.state, outcome.reason, results, outcome.reply and bytes(outcome.reply)


class Scenario:
    """One run of a flow on a node that is repeatedly killed and started again."""

    def __init__(self, main_flow, *, fails: bool) -> None:
        self.main_flow = main_flow
        self.disk, self.clock = JournalContent(), ManualClock()
        self.components = Components(fails=fails)
        self.repeated_calls: set[str] = set()
        self._finished_calls: set[str] = set()
        self._earlier_requests: Counter[str] = Counter()

    async def run_until_killed(self, writes: int, *, confirms_last_write: bool) -> bool:
        """Start the node, and kill it after ``writes`` writes. Returns False if the run ends first.

        ``confirms_last_write``: whether the journal confirms the last write before the kill.
        """
        journal = MemoryJournal(self.disk)
        journal.writes_left, journal.confirms_last_write = writes, confirms_last_write
        stage = self.components.stage(self.disk, self.clock, self.main_flow, journal)
        await stage.node.start()
        sending = asyncio.ensure_future(self._send(stage))
        await until(lambda: journal.ended.is_set() or self._is_over(stage))
        killed = journal.ended.is_set()
        if killed:
            for _ in range(3):
                await asyncio.sleep(0)  # lets requests arrive that were sent before the kill
            stage.crash()
        else:
            await stage.node.drain()
        sending.cancel()
        self._record_repeated_calls()
        return killed

    async def run_to_end(self):
        """Start the node, and wait until the run has ended. Returns the outcome."""
        async with self.components.stage(self.disk, self.clock, self.main_flow) as stage:
            await self._send(stage)
            await until(lambda: self._is_over(stage))
        self._record_repeated_calls()
        assert len(self.disk.runs) == 2
        return outcome_of(self.disk, next(iter(self.disk.runs)))

    async def _send(self, stage: Stage) -> None:
        if not self.disk.runs:
            body = json.dumps({"id_flow": "9", "payload": "p"}).encode()
            await stage.node.receive(Arrival(TriggerSource.MQTT, body))

    def _is_over(self, stage: Stage) -> bool:
        states = [run.state for run in self.disk.runs.values()]
        return bool(states) and all(state.final for state in states) and not stage.node.unfinished

    def _record_repeated_calls(self) -> None:
        """Add the calls that were repeated although their result was on the disk."""
        requests_by_key = self.components.requests_by_key
        self.repeated_calls |= {
            key
            for key in self._finished_calls
            if requests_by_key[key] > self._earlier_requests[key]
        }
        self._finished_calls, self._earlier_requests = (
            finished_calls(self.disk),
            Counter(requests_by_key),
        )


@pytest.fixture(params=list(Order), ids=lambda order: order.value)
def order(request):
    return request.param


@pytest.mark.parametrize("confirms_last_write", [True, False])
@pytest.mark.parametrize("fails", [False, True])
async def test_after_a_kill_at_any_write_no_finished_call_is_repeated_and_the_outcome_is_the_same(
    order, fails, confirms_last_write
):
    main_flow = flow_with_every_step(order, fails=fails)
    expected_outcome = await Scenario(main_flow, fails=fails).run_to_end()
    expected_state, *_ = expected_outcome
    assert expected_state is (State.FAILED if fails else State.SUCCEEDED)
    writes = 1
    while await (scenario := Scenario(main_flow, fails=fails)).run_until_killed(
        writes, confirms_last_write=confirms_last_write
    ):
        assert await scenario.run_to_end() == expected_outcome, f"killed after {writes}"
        assert scenario.repeated_calls == set(), f"killed after {writes}"
        calls_with_retries = {
            key for key, count in scenario.components.requests_by_key.items() if count > 2
        }
        step_with_retries = "5"
        assert {key.partition(":")[2] for key in calls_with_retries} == {step_with_retries}
        writes += 1
    assert writes > 20


async def test_after_many_kills_no_finished_call_is_repeated_and_the_outcome_is_the_same(order):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for fails in (False, True):
        main_flow = flow_with_every_step(order, fails=fails)
        expected_outcome = await Scenario(main_flow, fails=fails).run_to_end()
        for _ in range(5):
            scenario = Scenario(main_flow, fails=fails)
            while await scenario.run_until_killed(
                rng.randrange(3, 12), confirms_last_write=rng.random() < 0.5
            ):
                pass
            assert await scenario.run_to_end() == expected_outcome
            assert scenario.repeated_calls == set()
