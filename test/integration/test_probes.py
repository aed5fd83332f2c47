"""The probe of a component that must not be called twice: it says what became of a lost call."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest

from engine_stage import URL, ManualClock, Stage, flows, settle, until
from fractal_rm.adapters.memory.journal import JournalContent, MemoryJournal
from fractal_rm.config.model import Bounds
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.call_errors import CallTimedOut
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import Probed
from fractal_rm.domain.probe import MAX_QUESTIONS, ProbeVerdict
from fractal_rm.domain.state import State
from fractal_rm.domain.story import RunToTell, tell

PROBE = {"once": {"probe": "2"}}
TEXT = "1\nTO once 1\nPOST payload\nTO b 1\nPOST result1\n"
NO_STATE = 'the answer is not a JSON object with a "state"'
TIMED_OUT = CallTimedOut("no answer within the time limit", sent=True)


def stage(text: str = TEXT, keys=PROBE, **more) -> Stage:
    """A node whose component "once" must not be called twice, and has a probe."""
    return Stage(keys=keys, flows=flows(text), balancer=None, **more)


def set_probe(node: Stage, *answers: str | tuple[int, str] | Exception) -> None:
    """Let the probe give these answers in turn: a JSON object, a status with a body, or an error.

    The last answer is repeated.
    """
    left = list(answers)

    async def answer(_):
        this = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(this, Exception):
            raise this
        status, body = this if isinstance(this, tuple) else (200, this)
        return HttpResponse(status, b"", body.encode())

    node.components.answers[f"{URL}/once/2"] = answer


def probed(node: Stage, run: str) -> list[tuple[ProbeVerdict, str, int]]:
    return [
        (fact.verdict, fact.reason, fact.questions)
        for fact in node.disk.facts(run)
        if isinstance(fact, Probed)
    ]


async def pass_pauses(node: Stage, run: str) -> None:
    """Let time pass until the run has ended."""
    while not node.state(run).final:
        node.clock.ms += 1_000
        await node.node.watch_clock()
        await settle(20)


# --- the answer of a call is lost while the node runs ---------------------------------------------


@pytest.mark.parametrize(
    ("result", "text"),
    [('"moved"', "moved"), ('{"x": 1}', '{"x": 1}'), ("[1,2]", "[1,2]"), ('"\\u00e4"', "ä")],
)
async def test_a_call_that_was_executed_has_the_result_that_the_probe_gives(result, text):
    async with stage() as node:
        node.set_errors("once/1", TIMED_OUT)
        set_probe(node, f'{{"state": "done", "result": {result}}}')
        outcome = await node.run("1")
        assert outcome.state is State.SUCCEEDED
        assert json.loads(bytes(outcome.results[0])) == text
        assert node.called_endpoints() == ["once/1", "once/2", "b/1"]
        call, question, _ = node.components.requests
        assert question.method == "GET"
        assert question.headers["idempotency-key"] == call.headers["idempotency-key"]
        assert probed(node, outcome.run) == [(ProbeVerdict.DONE, "", 1)]


async def test_a_call_that_was_not_executed_is_made_again():
    async with stage() as node:
        node.set_errors("once/1", TIMED_OUT, None)
        set_probe(node, '{"state": "not-done"}')
        run = (await node.send("1")).run
        await pass_pauses(node, run)
        assert node.state(run) is State.SUCCEEDED
        assert node.called_endpoints() == ["once/1", "once/2", "once/1", "b/1"]
        assert node.facts(run)[2:7] == [
            "RequestStarted", "Probed", "StepFailed", "RequestStarted", "Finished",
        ]  # fmt: skip
        failed = node.disk.facts(run)[4]
        assert (failed.cause, failed.reason) == (
            Cause.ANSWER_LOST,
            "no answer within the time limit, and its probe says that the call was not executed",
        )


async def test_a_call_that_is_never_executed_fails_after_its_attempts():
    async with stage() as node:
        node.set_errors("once/1", TIMED_OUT)
        set_probe(node, '{"state": "not-done"}')
        run = (await node.send("1")).run
        await pass_pauses(node, run)
        assert node.state(run) is State.FAILED
        assert node.called_endpoints() == ["once/1", "once/2"] * 3


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ('{"state": "unknown"}', "the component does not know"),
        ('{"state": "maybe"}', 'the state is "maybe"'),
        ("{}", NO_STATE),
        ("not JSON", NO_STATE),
        ('{"state": "done", "status": 99}', "the status 99 is not one of a final answer"),
        (
            '{"state": "done", "result": "\\ud800"}',
            'the answer is not a JSON object with a "state"',
        ),
        ((404, '{"state": "not-done"}'), "status 404"),
        ((302, ""), "status 302"),
    ],
)
async def test_a_run_ends_as_unknown_if_the_probe_does_not_say_what_became_of_the_call(
    answer, reason
):
    async with stage() as node:
        node.set_errors("once/1", TIMED_OUT)
        set_probe(node, answer)
        outcome = await node.run("1")
        assert outcome.state is State.UNKNOWN
        assert outcome.reason == (
            "step 1, once 1: no answer within the time limit, and its probe does not say whether"
            f" the call was executed: {reason}"
        )
        assert node.disk.facts(outcome.run)[-1].cause is Cause.ANSWER_LOST
        assert probed(node, outcome.run) == [(ProbeVerdict.UNKNOWN, reason, 1)]
        assert node.called_endpoints() == ["once/1", "once/2"]


async def test_a_component_that_cannot_say_yet_is_asked_again():
    async with stage() as node:
        node.set_errors("once/1", TIMED_OUT)
        set_probe(
            node, TIMED_OUT, (503, ""), (429, ""), '{"state": "in-progress"}', '{"state": "done"}'
        )
        run = (await node.send("1")).run
        await pass_pauses(node, run)
        assert node.state(run) is State.SUCCEEDED
        assert probed(node, run) == [(ProbeVerdict.DONE, "", 5)]


async def test_a_component_that_never_says_is_asked_a_limited_number_of_times():
    async with stage() as node:
        node.set_errors("once/1", TIMED_OUT)
        set_probe(node, (503, "a secret"))
        run = (await node.send("1")).run
        await pass_pauses(node, run)
        assert node.state(run) is State.UNKNOWN
        reason = f"no answer to {MAX_QUESTIONS} questions, the last time: status 503"
        assert probed(node, run) == [(ProbeVerdict.UNKNOWN, reason, MAX_QUESTIONS)]


async def test_the_status_that_the_component_answered_is_judged_like_an_answer_to_the_call():
    async with stage() as node:
        node.set_errors("once/1", TIMED_OUT)
        set_probe(node, '{"state": "done", "status": 409, "result": "occupied"}')
        outcome = await node.run("1")
        assert outcome.state is State.FAILED
        assert outcome.reason == "step 1, once 1: status 409: occupied"


async def test_questions_end_at_the_deadline_of_the_run():
    async with stage("1\nDEADLINE 5s\nTO once 1\nPOST payload\n") as node:
        node.set_errors("once/1", TIMED_OUT)
        set_probe(node, '{"state": "in-progress"}')
        run = (await node.send("1")).run
        await pass_pauses(node, run)
        assert node.state(run) is State.EXPIRED
        assert "call 1 may have been made" in node.disk.facts(run)[-1].reason


async def test_a_component_that_may_be_called_twice_is_not_asked():
    async with stage("1\nTO a 1\nGET\n", {"a": {"probe": "2"}}) as node:
        node.set_errors("a/1", TIMED_OUT)
        assert (await node.run("1")).state is State.FAILED
        assert node.called_endpoints() == ["a/1"]


async def test_each_element_and_the_undo_of_a_step_are_asked_about_by_their_own_key():
    text = (
        "1\nTO once 1\nPOST payload.n\n  UNDO 1 result1\nPOST item\n  FOREACH payload.l\n"
        "TO b 1\nGET\n"
    )
    async with stage(text) as node:
        node.set_errors("once/1", TIMED_OUT)
        set_probe(node, '{"state": "done", "result": "1"}')
        node.set_answer("b/1", "", 500)
        outcome = await node.run("1", payload={"n": 0, "l": [1, 2]})
        assert outcome.state is State.FAILED
        keys = [
            request.headers["idempotency-key"].partition(":")[2]
            for request in node.components.requests
            if request.url.endswith("once/2")
        ]
        assert keys == ["1", "2.1", "2.2", "undo.1"]


# --- a crash --------------------------------------------------------------------------------------


class Machine:
    """A component that counts how often it has executed each call, and answers its probe.

    The answer of the first request of each call is lost. ``executes_first``: whether this request
    was executed.
    """

    def __init__(self, *, executes_first: bool) -> None:
        self.executed: Counter[str] = Counter()
        self._requests: Counter[str] = Counter()
        self._executes_first = executes_first

    async def act(self, request):
        key = request.headers["idempotency-key"]
        self._requests[key] += 1
        is_first = self._requests[key] == 1
        if not is_first or self._executes_first:
            self.executed[key] += 1
        if is_first:
            raise TIMED_OUT
        return HttpResponse(200, b"", b"moved")

    async def tell(self, request):
        is_done = self.executed[request.headers["idempotency-key"]] > 0
        body = {"state": "done", "result": "moved"} if is_done else {"state": "not-done"}
        return HttpResponse(200, b"", json.dumps(body).encode())

    def stage(self, disk: JournalContent, clock: ManualClock, writes: int | None) -> Stage:
        journal = MemoryJournal(disk)
        journal.writes_left = writes
        node = stage(disk=disk, clock=clock, journal=journal, bounds=Bounds(max_attempts=100))
        node.components.answers[f"{URL}/once/1"] = self.act
        node.components.answers[f"{URL}/once/2"] = self.tell
        return node


@pytest.mark.parametrize("executes_first", [True, False])
async def test_a_node_that_is_killed_at_any_write_lets_each_call_be_executed_once(executes_first):
    """The node is killed after its first write, after its second, and so on until a run ends."""
    for writes in range(1, 40):
        machine, disk = Machine(executes_first=executes_first), JournalContent()
        clock = ManualClock()
        if not await is_killed(machine.stage(disk, clock, writes)):
            break
        async with machine.stage(disk, clock, None) as after:
            if not disk.runs:
                await after.send("1")
            [run] = disk.runs
            await pass_pauses(after, run)
            assert after.state(run) is State.SUCCEEDED
        assert set(machine.executed.values()) == {1}
    else:
        pytest.fail("the run never ended before a kill")


async def is_killed(node: Stage) -> bool:
    """Start a node and send a trigger. Returns whether it was killed before the run ended."""
    await node.node.start()
    sending = asyncio.ensure_future(node.send("1"))
    await until(lambda: node.journal.ended.is_set() or is_over(node))
    killed = node.journal.ended.is_set()
    if killed:
        node.crash()
    else:
        await node.node.drain()
    sending.cancel()
    return killed


def is_over(node: Stage) -> bool:
    node.clock.ms += 100
    node.dependencies.timers.fire_due()
    return bool(node.disk.runs) and all(run.state.final for run in node.disk.runs.values())


async def test_the_call_that_a_crash_interrupted_ends_as_unknown_if_its_probe_cannot_say():
    node = stage()
    await node.node.start()
    node.block_calls("once/1")
    run = (await node.send("1")).run
    await until(node.called_endpoints)
    node.crash()
    after = stage(disk=node.disk, clock=node.clock)
    set_probe(after, '{"state": "unknown"}')
    async with after:
        outcome = await after.wait_for_outcome(run)
    assert outcome.state is State.UNKNOWN
    assert "its answer was lost in a crash, and its probe does not say" in outcome.reason


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ('{"state": "done"}', "asked 1 time about step 1 (POST once 1): it has executed the call."),
        ('{"state": "unknown"}', "it cannot say whether it executed the call (the component"),
        ('{"state": "not-done"}', "it has not executed the call, so the call is made again."),
    ],
)
async def test_the_story_of_a_run_tells_what_the_probe_said(answer, told):
    async with stage() as node:
        node.set_errors("once/1", TIMED_OUT, None)
        set_probe(node, answer)
        run = (await node.send("1")).run
        await pass_pauses(node, run)
        stored = node.disk.runs[run]
        facts = [(each.at_ms, each.fact) for each in stored.facts]
        told_run = RunToTell(
            run, "1", stored.state, "", "mqtt", "up", 0, 0, 0, str, facts=facts, flow=stored.flow
        )
        assert told in "\n".join(event.text for event in tell(told_run).events)
