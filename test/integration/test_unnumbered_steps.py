"""WAIT, PUBLISH and REPLY steps. The adapters are in memory."""

from __future__ import annotations

import asyncio
import json

import pytest

from engine_stage import ManualClock, Stage, until
from fractal_rm.adapters.memory.journal import JournalContent
from fractal_rm.config.model import Bounds
from fractal_rm.domain.call_errors import PublishFailed
from fractal_rm.domain.expression import ListOf, Literal, ObjectOf, Payload, Result
from fractal_rm.domain.facts import StepPassed
from fractal_rm.domain.flow import (
    Content,
    Durability,
    OnError,
    Publish,
    Reply,
    Retry,
    SubFlow,
    Wait,
)
from fractal_rm.domain.state import State
from fractal_rm.engine.execute import unnumbered
from steps import flow, get, items, post

HOUR_MS = 3_600_000


@pytest.fixture(autouse=True)
def fast_publish_retries(monkeypatch):
    """Let PUBLISH steps be tried three times, with pauses of 1 ms."""
    monkeypatch.setattr(unnumbered, "PUBLISH_RETRY", Retry(2, 1))


NEVER = Literal(False)


def stage_of(main_flow, disk=None, clock=None, **changes):
    return Stage(disk, clock, flows={main_flow.id: main_flow}, **changes)


async def crash_at_fact(main_flow, disk, clock, fact_name):
    """Crash when the last fact of the run is ``fact_name``. Returns the id of the run."""
    stage = stage_of(main_flow, disk, clock)
    await stage.node.start()
    run_id = (await stage.send(main_flow.id)).run
    await until(lambda: stage.facts(run_id)[-1] == fact_name)
    stage.crash()
    return run_id


# --- WAIT ---------------------------------------------------------------------------------------


async def test_a_wait_is_recorded_before_it_begins_and_delays_later_calls():
    async with stage_of(flow(get(1, "a 1"), Wait(1), get(2, "b 1"))) as stage:
        accepted = await stage.send("9")
        assert (await stage.wait_for_outcome(accepted.run)).state is State.SUCCEEDED
        assert stage.called_endpoints() == ["a/1", "b/1"]
        facts = [
            "Accepted",
            "Placed",
            "Finished",
            "WaitStarted",
            "StepPassed",
            "Finished",
            "Settled",
        ]
        assert stage.facts(accepted.run) == facts


async def test_a_crash_does_not_count_as_an_attempt_of_a_run_in_a_long_wait():
    disk, clock = JournalContent(), ManualClock()
    main_flow = flow(Wait(HOUR_MS), get(1, "a 1"))
    run_id = await crash_at_fact(main_flow, disk, clock, "WaitStarted")
    async with stage_of(main_flow, disk, clock, bounds=Bounds(max_attempts=1)) as stage:
        await until(lambda: stage.load.waiting == 1)
        assert stage.facts(run_id)[-1] == "WaitStarted"


async def test_a_long_wait_frees_the_slot():
    main_flow = flow(Wait(HOUR_MS), get(1, "a 1"))
    async with stage_of(main_flow) as stage:
        run_id = (await stage.send("9")).run
        load = stage.load
        await until(lambda: stage.facts(run_id)[-1] == "WaitStarted" and not load.in_flight)
        assert load.waiting == 1
        assert stage.called_endpoints() == []


async def test_a_restart_does_not_make_a_wait_longer():
    disk, clock = JournalContent(), ManualClock()
    main_flow = flow(get(1, "a 1"), Wait(60_000), get(2, "b 1"))
    run_id = await crash_at_fact(main_flow, disk, clock, "WaitStarted")
    clock.ms += 60_000
    async with stage_of(main_flow, disk, clock) as stage:
        await until(lambda: stage.state(run_id) is State.SUCCEEDED)
        assert stage.called_endpoints() == ["b/1"]
        assert stage.facts(run_id).count("WaitStarted") == 1


@pytest.mark.parametrize(("jump_ms", "passes"), [(60_000, True), (-HOUR_MS, False)])
async def test_after_a_reboot_a_wait_is_measured_on_the_wall_clock(jump_ms, passes):
    disk, clock = JournalContent(), ManualClock(100 * HOUR_MS)
    main_flow = flow(Wait(60_000), get(1, "b 1"))
    run_id = await crash_at_fact(main_flow, disk, clock, "WaitStarted")
    clock.ms += jump_ms
    clock.reboot()
    async with stage_of(main_flow, disk, clock) as stage:
        load = stage.load
        if passes:
            await until(lambda: stage.state(run_id) is State.SUCCEEDED)
        else:
            await until(lambda: load.waiting == 1 and not load.in_flight)
            assert stage.called_endpoints() == []


@pytest.mark.parametrize("jumped_ms", [HOUR_MS // 2, -HOUR_MS])
async def test_without_a_reboot_a_jump_of_the_wall_clock_does_not_change_a_wait(jumped_ms):
    disk, clock = JournalContent(), ManualClock(100 * HOUR_MS)
    main_flow = flow(Wait(60_000), get(1, "b 1"))
    run_id = await crash_at_fact(main_flow, disk, clock, "WaitStarted")
    clock.jumped_ms = jumped_ms
    async with stage_of(main_flow, disk, clock) as stage:
        load = stage.load
        await until(lambda: load.waiting == 1 and not load.in_flight)
        assert stage.called_endpoints() == []
    clock.ms += 60_000
    async with stage_of(main_flow, disk, clock) as stage:
        await until(lambda: stage.state(run_id) is State.SUCCEEDED)


@pytest.mark.parametrize("in_child", [False, True])
async def test_time_in_a_wait_does_not_make_a_run_too_old(in_child):
    disk, clock = JournalContent(), ManualClock()
    main_flow = flow(Wait(5 * HOUR_MS), get(1, "b 1"))
    parent = flow(SubFlow(1, "9"), flow_id="8")
    stage = Stage(disk, clock, flows={"8": parent, "9": main_flow})
    await stage.node.start()
    await stage.send("8" if in_child else "9")
    load = stage.load
    await until(lambda: load.waiting == 1 and not load.in_flight)
    stage.crash()
    clock.ms += 5 * HOUR_MS
    async with Stage(disk, clock, flows={"8": parent, "9": main_flow}) as stage:
        await until(lambda: all(run.state is State.SUCCEEDED for run in disk.runs.values()))
        assert stage.called_endpoints() == ["b/1"]


async def test_steps_with_a_false_condition_are_skipped():
    steps = (Wait(HOUR_MS, NEVER), Publish("t", items(Payload()), NEVER), Reply(items(), NEVER))
    async with stage_of(flow(*steps, get(1, "a 1"))) as stage:
        outcome = await stage.run("9")
        assert outcome.state is State.SUCCEEDED
        assert stage.publisher.published == []
        assert json.loads(bytes(outcome.reply)) == "from a/1"


# --- PUBLISH ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "body"),
    [
        (items(Payload(), Result(1)), b'{"payload": [{"n": [1, 2]}, "from a/1"]}'),
        (items(), b'{"payload": []}'),
        (Content(json=ObjectOf((("n", Payload("n")), ("x", Literal(1))))), b'{"n": [1,2], "x": 1}'),
        (Content(raw=Result(1)), b"from a/1"),
        (Content(raw=Payload("n")), b"[1,2]"),
    ],
)
async def test_a_message_has_the_same_body_as_a_post(content, body):
    async with stage_of(flow(get(1, "a 1"), Publish("factory/alerts", content))) as stage:
        assert (await stage.run("9", payload={"n": [1, 2]})).state is State.SUCCEEDED
        assert stage.publisher.published == [("factory/alerts", body, None)]


async def test_a_message_is_retried_while_the_broker_is_down():
    async with stage_of(flow(Publish("t", items()), get(1, "a 1"))) as stage:
        stage.publisher.down = True
        run_id = (await stage.send("9")).run
        await until(lambda: "StepFailed" in stage.facts(run_id))
        stage.publisher.down = False
        assert (await stage.wait_for_outcome(run_id)).state is State.SUCCEEDED
        assert len(stage.publisher.published) == 1


async def test_a_broker_that_stays_down_fails_the_step():
    async with stage_of(flow(Publish("t", items()), get(1, "a 1"))) as stage:
        stage.publisher.down = True
        run_id = (await stage.send("9")).run
        outcome = await stage.wait_for_outcome(run_id)
        assert (outcome.state, outcome.reason) == (
            State.FAILED,
            "PUBLISH t: the broker is down",
        )
        assert stage.facts(run_id).count("StepFailed") == 3
        assert stage.called_endpoints() == []


async def test_a_message_that_the_broker_refuses_is_not_retried():
    async with stage_of(flow(Publish("t", items()))) as stage:
        attempts = []

        async def refuse(*_, **__):
            attempts.append(1)
            raise PublishFailed("it is too large", final=True)

        stage.publisher.publish = refuse
        outcome = await stage.run("9")
        assert (outcome.state, outcome.reason) == (State.FAILED, "PUBLISH t: it is too large")
        assert len(attempts) == 1


async def test_a_message_that_cannot_be_published_is_skipped_with_the_setting_errors_continue():
    main_flow = flow(
        Publish("t", items(Payload("a.b.")), None), get(1, "a 1"), errors=OnError.CONTINUE
    )
    async with stage_of(main_flow) as stage:
        assert (await stage.run("9")).state is State.SUCCEEDED
        assert stage.called_endpoints() == ["a/1"]


async def test_attempts_to_publish_that_were_made_before_a_crash_are_counted():
    disk, clock = JournalContent(), ManualClock()
    main_flow = flow(Publish("t", items()))
    stage = stage_of(main_flow, disk, clock)
    await stage.node.start()
    stage.publisher.down = True
    run_id = (await stage.send("9")).run
    await until(lambda: stage.facts(run_id).count("StepFailed") == 2)
    stage.crash()
    stage = stage_of(main_flow, disk, clock)
    stage.publisher.down = True
    async with stage:
        await until(lambda: stage.state(run_id) is State.FAILED)
        assert stage.facts(run_id).count("StepFailed") == 3


# --- REPLY --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reply"),
    [
        (items(Payload()), {"n": 1}),
        (items(Payload("n"), Result(1)), [1, "from a/1"]),
        (items(), None),
        (Content(json=ListOf((Payload("n"), Literal("x")))), [1, "x"]),
        (Content(raw=Payload("n")), "1"),
    ],
)
async def test_the_content_of_a_reply_step_is_the_reply_of_the_run(content, reply):
    async with stage_of(flow(get(1, "a 1"), Reply(content), get(2, "b 1"))) as stage:
        run_id = (await stage.send("9", payload={"n": 1})).run
        outcome = await stage.wait_for_outcome(run_id)
        assert json.loads(bytes(outcome.reply)) == reply
        (fact,) = [each for each in stage.disk.facts(run_id) if isinstance(each, StepPassed)]
        assert json.loads(bytes(fact.reply)) == reply


async def test_without_a_reply_step_the_last_result_of_a_successful_run_is_its_reply():
    async with stage_of(flow(get(1, "a 1"), get(2, "b 1"))) as stage:
        assert bytes((await stage.run("9")).reply) == b'"from b/1"'
        stage.set_answer("b/1", "no", 500)
        assert (await stage.run("9")).reply is None


async def test_a_reply_survives_a_crash_and_a_later_failure():
    disk, clock = JournalContent(), ManualClock()
    main_flow = flow(Reply(items(Payload())), get(1, "slow 1"), durable=Durability.STEP)
    stage = stage_of(main_flow, disk, clock)
    await stage.node.start()
    stage.block_calls("slow/1")
    run_id = (await stage.send("9")).run
    await until(lambda: stage.called_endpoints() == ["slow/1"])
    stage.crash()
    async with stage_of(main_flow, disk, clock) as stage:
        outcome = await stage.wait_for_outcome(run_id)
        assert (outcome.state, bytes(outcome.reply)) == (State.FAILED, b'"p"')


# --- bad input ----------------------------------------------------------------------------------

HUGE = "x" * (5 * 1024 * 1024)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (Publish("t", items(Result(1), Result(1))), "PUBLISH t: the value is larger than 8 MiB"),
        (Reply(items(Result(1), Result(1))), "REPLY: the value is larger than 8 MiB"),
        (
            post(2, "b 1", json=ObjectOf((("a", Result(1)), ("b", Result(1))))),
            "step 2, b 1: the value is larger than 8 MiB",
        ),
        (Reply(items(Result(1, "a"))), "REPLY: result1 is not JSON"),
        (Wait(1, Payload()), "WAIT: a condition must be true or false, and this is a text"),
    ],
)
async def test_a_value_that_is_too_large_or_cannot_be_evaluated_fails_its_step(step, reason):
    async with stage_of(flow(get(1, "a 1"), step)) as stage:
        stage.set_answer("a/1", HUGE)
        outcome = await stage.run("9")
        assert outcome.state is State.FAILED
        assert outcome.reason.startswith(reason)
        assert stage.called_endpoints() == ["a/1"]


async def test_an_index_past_the_end_is_null():
    async with stage_of(flow(get(1, "a 1"), Reply(items(Result(1, "list[9]"))))) as stage:
        stage.set_answer("a/1", '{"list": [1]}')
        assert bytes((await stage.run("9")).reply) == b"null"


async def test_a_message_that_a_crash_interrupts_is_sent_after_the_restart():
    disk, clock = JournalContent(), ManualClock()
    main_flow = flow(get(1, "a 1"), Publish("t", items(Result(1))), durable=Durability.STEP)
    stage = stage_of(main_flow, disk, clock)
    publishing = asyncio.Event()

    async def publish_forever(*_, **__):
        publishing.set()
        await asyncio.Event().wait()
        raise PublishFailed

    stage.publisher.publish = publish_forever
    await stage.node.start()
    run_id = (await stage.send("9")).run
    await publishing.wait()
    await until(lambda: "Finished" in stage.facts(run_id))
    stage.crash()
    async with stage_of(main_flow, disk, clock) as stage:
        await until(lambda: stage.state(run_id) is State.SUCCEEDED)
        assert stage.called_endpoints() == []
        assert len(stage.publisher.published) == 1
