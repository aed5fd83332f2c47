"""The settings ORDER dataflow and DEADLINE, with in-memory adapters, also after a crash."""

from __future__ import annotations

import asyncio

import pytest

from engine_stage import URL, ManualClock, Stage, until
from fractal_rm.adapters.memory.journal import JournalContent
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.call_errors import CallTimedOut
from fractal_rm.domain.expression import ObjectOf, Payload, Result
from fractal_rm.domain.facts import Settled
from fractal_rm.domain.flow import (
    Content,
    Durability,
    OnError,
    Order,
    Publish,
    QueueSettings,
    Reply,
    SubFlow,
    Wait,
)
from fractal_rm.domain.outcome import ResumeLater
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.engine.execute.dataflow import Dataflow
from steps import flow, get, items, post, undo

DATAFLOW = {"order": Order.DATAFLOW}
# Calls 1 and 2 are independent. Call 3 sends the results of both.
JOIN = flow(get(1, "a 1"), get(2, "b 1"), post(3, "a 2", Result(1), Result(2)), **DATAFLOW)


def stage_of(*flows, disk=None, clock=None, **changes):
    return Stage(disk, clock, flows={each.id: each for each in flows}, **changes)


async def crash_in_two_calls(stage, flow_id):
    """Crash while the calls ``once/1`` and ``b/1`` of a run are in flight. Returns the run's id."""
    stage.block_calls("once/1")
    stage.block_calls("b/1")
    await stage.node.start()
    run_id = (await stage.send(flow_id)).run
    await until(lambda: len(stage.called_endpoints()) == 2)
    stage.crash()
    return run_id


async def test_independent_calls_are_in_flight_together():
    async with stage_of(JOIN) as stage:
        first, second = stage.block_calls("a/1"), stage.block_calls("b/1")
        run_id = (await stage.send("9")).run
        await until(lambda: stage.called_endpoints() == ["a/1", "b/1"])
        second.set()
        await until(lambda: "Finished" in stage.facts(run_id))
        assert stage.called_endpoints() == ["a/1", "b/1"]
        first.set()
        outcome = await stage.wait_for_outcome(run_id)
        assert outcome.state is State.SUCCEEDED
        assert stage.components.requests[2].body == b'{"payload": ["released", "released"]}'
        assert [bytes(each) for each in outcome.results] == [
            b'"released"',
            b'"released"',
            b'"from a/2"',
        ]
        assert bytes(outcome.reply) == b'"from a/2"'


@pytest.mark.parametrize(
    "barrier", [Wait(1), Reply(items(Payload())), Publish("t", items(Payload()))]
)
async def test_a_barrier_waits_for_all_earlier_steps_and_all_later_steps_wait_for_the_barrier(
    barrier,
):
    main_flow = flow(get(1, "a 1"), barrier, get(2, "b 1"), **DATAFLOW)
    async with stage_of(main_flow) as stage:
        release = stage.block_calls("a/1")
        run_id = (await stage.send("9")).run
        await until(lambda: stage.called_endpoints() == ["a/1"])
        assert "StepPassed" not in stage.facts(run_id)
        release.set()
        assert (await stage.wait_for_outcome(run_id)).state is State.SUCCEEDED
        facts = [each for each in stage.facts(run_id) if each in ("Finished", "StepPassed")]
        assert facts == ["Finished", "StepPassed", "Finished"]


async def test_a_publish_step_waits_only_for_the_results_in_its_message():
    main_flow = flow(get(1, "a 1"), get(2, "slow 1"), Publish("t", items(Result(1))), **DATAFLOW)
    async with stage_of(main_flow) as stage:
        release = stage.block_calls("slow/1")
        await stage.send("9")
        await until(lambda: stage.publisher.published)
        release.set()


async def test_after_a_failure_the_steps_in_flight_finish_and_no_other_step_begins():
    needs_second = post(3, "a 2", Result(2))
    main_flow = flow(get(1, "a 1"), get(2, "b 1", undo=undo("2")), needs_second, **DATAFLOW)
    async with stage_of(main_flow) as stage:
        stage.set_answer("a/1", "no", 500)
        release = stage.block_calls("b/1")
        run_id = (await stage.send("9")).run
        await until(lambda: "StepFailed" in stage.facts(run_id))
        release.set()
        outcome = await stage.wait_for_outcome(run_id)
        assert (outcome.state, outcome.reason) == (State.FAILED, "step 1, a 1: status 500: no")
        assert stage.called_endpoints() == ["a/1", "b/1", "b/2"]


async def test_a_call_that_was_in_flight_when_another_failed_is_made_and_undone_after_a_crash():
    disk, clock = JournalContent(), ManualClock()
    main_flow = flow(
        get(1, "a 1"), get(2, "b 1", undo=undo("2")), post(3, "a 2", Result(2)), **DATAFLOW
    )
    stage = stage_of(main_flow, disk=disk, clock=clock)
    stage.set_answer("a/1", "no", 500)
    stage.block_calls("b/1")
    await stage.node.start()
    run_id = (await stage.send("9")).run
    await until(lambda: "StepFailed" in stage.facts(run_id))
    stage.crash()
    async with stage_of(main_flow, disk=disk, clock=clock) as stage:
        await until(lambda: stage.state(run_id) is State.FAILED)
        assert stage.called_endpoints() == ["b/1", "b/2"]


async def test_the_text_of_a_failed_call_is_its_result_with_the_setting_errors_continue():
    async with stage_of(flow(*JOIN.steps, errors=OnError.CONTINUE, **DATAFLOW)) as stage:
        stage.set_answer("a/1", "out of paper", 500)
        assert (await stage.run("9")).state is State.SUCCEEDED
        assert stage.components.requests[2].body == b'{"payload": ["out of paper", "from b/1"]}'


async def test_a_call_in_doubt_leaves_the_run_unknown_even_if_another_call_fails():
    disk, clock = JournalContent(), ManualClock()
    main_flow = flow(get(1, "once 1"), get(2, "b 1"), **DATAFLOW)
    run_id = await crash_in_two_calls(stage_of(main_flow, disk=disk, clock=clock), "9")
    stage = stage_of(main_flow, disk=disk, clock=clock)
    stage.set_answer("b/1", "no", 500)
    async with stage:
        await until(lambda: stage.state(run_id) is State.UNKNOWN)
        assert "once/1" not in stage.called_endpoints()


async def test_a_long_wait_in_a_child_run_frees_the_slot_and_other_steps_continue():
    child = flow(Wait(60_000), get(1, "b 1"), flow_id="8")
    main_flow = flow(
        SubFlow(1, "8"), get(2, "a 1"), post(3, "a 2", Result(1), Result(2)), **DATAFLOW
    )
    async with stage_of(main_flow, child) as stage:
        run_id = (await stage.send("9")).run
        load = stage.load
        await until(lambda: stage.called_endpoints() == ["a/1"] and not load.in_flight)
        stage.clock.ms += 60_000
        await stage.node.watch_clock()
        assert (await stage.wait_for_outcome(run_id)).state is State.SUCCEEDED
        assert stage.called_endpoints() == ["a/1", "b/1", "a/2"]


async def test_a_wait_in_a_child_run_ends_in_time_while_another_step_is_in_flight():
    child = flow(Wait(60_000), get(1, "b 1"), flow_id="8")
    async with stage_of(flow(SubFlow(1, "8"), get(2, "a 1"), **DATAFLOW), child) as stage:
        release = stage.block_calls("a/1")
        run_id = (await stage.send("9")).run
        await until(lambda: stage.called_endpoints() == ["a/1"] and stage.dependencies.timers._heap)
        stage.clock.ms += 60_000
        await stage.node.watch_clock()
        await until(lambda: stage.called_endpoints() == ["a/1", "b/1"])
        release.set()
        assert (await stage.wait_for_outcome(run_id)).state is State.SUCCEEDED


async def test_a_step_that_gets_its_permit_while_another_step_fails_does_not_begin():
    executed: list[int] = []
    withdrawn: list[SubFlow] = []
    recorded: list[int] = []
    steps = SubFlow(1, "8"), get(2, "a 1")
    run = Run("r", flow(*steps, **DATAFLOW), 0)

    async def execute_step(_, position, __):
        executed.append(position)
        if position == 0:
            return ResumeLater(10, has_begun=False)
        await asyncio.sleep(0.001)
        permits.on_grant[run.id]()
        return Settled(State.FAILED, "step 2")

    async with stage_of() as stage:
        permits, timers = stage.queue.permits, stage.dependencies.timers
        dataflow = Dataflow(
            execute_step,
            lambda _, fact: recorded.append(fact.step),
            None,
            lambda _, step: withdrawn.append(step),
            permits,
            timers,
        )
        assert (await dataflow.execute(run)).state is State.FAILED
        assert (executed, withdrawn, recorded) == ([0, 1], [steps[0]], [2])


async def test_an_unknown_child_run_leaves_its_parent_unknown_after_a_long_wait():
    disk, clock = JournalContent(), ManualClock()
    flows = (
        flow(SubFlow(1, "6"), SubFlow(2, "5"), flow_id="7", **DATAFLOW),
        flow(Wait(60_000), get(1, "a 2"), flow_id="6"),
        flow(get(1, "once 1"), flow_id="5"),
    )
    stage = stage_of(*flows, disk=disk, clock=clock)
    await stage.node.start()
    stage.block_calls("once/1")
    run_id = (await stage.send("7")).run
    await until(
        lambda: (
            stage.called_endpoints() and any("WaitStarted" in stage.facts(run) for run in disk.runs)
        )
    )
    stage.crash()
    async with stage_of(*flows, disk=disk, clock=clock) as stage:
        await until(lambda: any(run.state is State.UNKNOWN for run in disk.runs.values()))
        await until(lambda: not stage.load.in_flight)
        clock.ms += 60_000
        await stage.node.watch_clock()
        assert (await stage.wait_for_outcome(run_id)).state is State.UNKNOWN
        assert stage.called_endpoints() == ["a/2"]


@pytest.mark.parametrize("crash", [False, True])
async def test_after_a_long_wait_no_step_begins_if_another_step_has_failed(crash):
    disk, clock = JournalContent(), ManualClock()
    # With the payload [], the evaluation of this content fails.
    failing_content = Content(json=ObjectOf((("of", Payload("abs(@)")),)))
    flows = (
        flow(
            SubFlow(1, "6"),
            SubFlow(2, "5"),
            SubFlow(3, "6", failing_content),
            flow_id="7",
            **DATAFLOW,
        ),
        flow(Wait(60_000), flow_id="6"),
        flow(get(1, "b 1"), flow_id="5", queueing=QueueSettings(limit=1)),
    )
    stage = stage_of(*flows, disk=disk, clock=clock)
    await stage.node.start()
    release = stage.block_calls("b/1")
    holder = (await stage.send("5")).run
    await until(lambda: stage.called_endpoints() == ["b/1"])
    run_id = (await stage.send("7", payload=[])).run
    await until(lambda: "StepFailed" in stage.facts(run_id))
    await until(lambda: stage.dependencies.timers._heap)
    if crash:
        stage.crash()
        stage = stage_of(*flows, disk=disk, clock=clock)
        await stage.node.start()
    release.set()
    assert (await stage.wait_for_outcome(holder)).state is State.SUCCEEDED
    clock.ms += 60_000
    await stage.node.watch_clock()
    outcome = await stage.wait_for_outcome(run_id)
    assert (outcome.state, outcome.reason[:13]) == (State.FAILED, "step 3, RUN 6")
    assert stage.called_endpoints() == ["b/1"]
    await stage.node.drain()


async def test_the_reason_of_an_expired_run_names_calls_that_a_crash_left_in_doubt():
    disk, clock = JournalContent(), ManualClock()
    main_flow = flow(get(1, "once 1"), get(2, "b 1"), deadline_ms=60_000, **DATAFLOW)
    run_id = await crash_in_two_calls(stage_of(main_flow, disk=disk, clock=clock), "9")
    async with stage_of(main_flow, disk=disk, clock=clock) as stage:
        stage.block_calls("b/1")
        await until(lambda: "StepFailed" in stage.facts(run_id) and stage.called_endpoints())
        clock.ms += 60_000
        await stage.node.watch_clock()
        outcome = await stage.wait_for_outcome(run_id)
        assert (outcome.state, outcome.reason[-32:]) == (
            State.EXPIRED, "and call 1, 2 may have been made",
        )  # fmt: skip


async def test_the_reason_of_an_expired_run_names_the_calls_that_its_child_may_have_made():
    disk, clock = JournalContent(), ManualClock()
    flows = (
        flow(SubFlow(1, "6"), flow_id="7", deadline_ms=60_000),
        flow(get(1, "once 1"), get(2, "b 1"), flow_id="6", **DATAFLOW),
    )
    run_id = await crash_in_two_calls(stage_of(*flows, disk=disk, clock=clock), "7")
    stage = stage_of(*flows, disk=disk, clock=clock)
    stage.block_calls("b/1")
    async with stage:
        await until(lambda: stage.called_endpoints() == ["b/1"])
        clock.ms += 60_000
        await stage.node.watch_clock()
        reason = (await stage.wait_for_outcome(run_id)).reason
        (child,) = [each for each in disk.runs if each != run_id]
        assert f"and call 1, 2 of child run {child} may have been made" in reason
        assert "call 1, 2 may have been made" in (await stage.wait_for_outcome(child)).reason


async def test_an_undo_in_flight_at_the_deadline_is_not_named_as_a_call_in_doubt():
    clock = ManualClock()
    flows = (
        flow(SubFlow(1, "6"), flow_id="7", deadline_ms=60_000),
        flow(get(1, "once 1", undo=undo("2")), get(2, "b 1"), flow_id="6"),
    )
    async with stage_of(*flows, clock=clock) as stage:
        stage.set_answer("b/1", "no", 500)
        stage.block_calls("once/2")
        run_id = (await stage.send("7")).run
        await until(lambda: stage.called_endpoints() == ["once/1", "b/1", "once/2"])
        clock.ms += 60_000
        await stage.node.watch_clock()
        assert (await stage.wait_for_outcome(run_id)).reason.endswith("0 of 1 calls were made")
        (child,) = [each for each in stage.disk.runs if each != run_id]
        assert (
            "has passed; undo of step 1, once 2: " in (await stage.wait_for_outcome(child)).reason
        )


async def test_no_task_of_an_expired_run_remains():
    async with stage_of(flow(*JOIN.steps, deadline_ms=30, **DATAFLOW)) as stage:
        stage.block_calls("a/1")
        stage.block_calls("b/1")
        tasks_before = len(asyncio.all_tasks())
        outcome = await stage.run("9")
        assert outcome.state is State.EXPIRED
        assert outcome.reason == (
            "the deadline of 0.03 s ended when 0 of 3 calls were made,"
            " and call 1, 2 may have been made"
        )
        assert len(asyncio.all_tasks()) <= tasks_before + 1  # one idle worker may remain


# --- deadlines ----------------------------------------------------------------------------------


async def test_the_remaining_time_of_a_run_is_sent_and_limits_its_calls():
    main_flow = flow(get(1, "a 1"), get(2, "b 1", timeout_ms=800), deadline_ms=5_000)
    async with stage_of(main_flow) as stage:

        async def answer_after_a_second(_):
            stage.clock.ms += 1_000
            return HttpResponse(200, b"", b"")

        stage.components.answers[f"{URL}/a/1"] = answer_after_a_second
        assert (await stage.run("9")).state is State.SUCCEEDED
        first, second = stage.components.requests
        assert (first.headers["fractal-time-left"], first.timeout_s) == ("5000", 5.0)
        assert (second.headers["fractal-time-left"], second.timeout_s) == ("4000", 0.8)


async def test_a_run_without_a_deadline_sends_no_time_left():
    async with stage_of(flow(get(1, "a 1"))) as stage:
        await stage.run("9")
        (request,) = stage.components.requests
        assert "fractal-time-left" not in request.headers
        assert request.timeout_s is None


async def test_a_run_expires_if_a_call_times_out_at_the_deadline():
    async with stage_of(flow(get(1, "a 1"), deadline_ms=5_000)) as stage:

        async def time_out(_):
            stage.clock.ms += 5_000
            raise CallTimedOut("no answer within the time limit", sent=True)

        stage.components.answers[f"{URL}/a/1"] = time_out
        assert (await stage.run("9")).state is State.EXPIRED


async def test_a_child_run_has_the_deadline_of_its_parent():
    child = flow(get(1, "b 1", undo=undo("2")), get(2, "slow 1"), flow_id="8")
    main_flow = flow(get(1, "a 1", undo=undo("2")), SubFlow(2, "8"), deadline_ms=50)
    async with stage_of(main_flow, child) as stage:
        stage.block_calls("slow/1")
        run_id = (await stage.send("9")).run
        assert (await stage.wait_for_outcome(run_id)).state is State.EXPIRED
        assert stage.called_endpoints() == ["a/1", "b/1", "slow/1", "b/2", "a/2"]
        (child_id,) = stage.disk.runs.keys() - {run_id}
        assert stage.state(child_id) is State.EXPIRED
        assert stage.disk.facts(child_id)[0].budget_ms == 50
        assert stage.components.requests[1].headers["fractal-time-left"] == "50"
        assert stage.node.unfinished == 0
        assert stage.load.result_bytes == 0


async def test_a_run_fails_and_does_not_expire_if_its_child_run_expires():
    child = flow(get(1, "slow 1"), flow_id="8", deadline_ms=10)
    async with stage_of(flow(SubFlow(1, "8"), deadline_ms=60_000), child) as stage:
        stage.block_calls("slow/1")
        outcome = await stage.run("9")
        assert outcome.state is State.FAILED
        assert "is expired: the deadline of 0.01 s ended" in outcome.reason


async def test_a_long_wait_ends_at_the_deadline():
    async with stage_of(flow(Wait(60_000), get(1, "a 1"), deadline_ms=5_000)) as stage:
        run_id = (await stage.send("9")).run
        load = stage.load
        await until(lambda: "WaitStarted" in stage.facts(run_id) and not load.in_flight)
        stage.clock.ms += 5_000
        await stage.node.watch_clock()
        assert (await stage.wait_for_outcome(run_id)).state is State.EXPIRED


@pytest.mark.parametrize("durable", [Durability.ACCEPT, Durability.STEP])
async def test_parent_and_child_are_expired_if_the_deadline_passes_after_a_crash(durable):
    disk, clock = JournalContent(), ManualClock()
    child = flow(get(1, "b 1", undo=undo("2")), get(2, "slow 1"), flow_id="8")
    main_flow = flow(SubFlow(1, "8"), deadline_ms=60_000, durable=durable)
    stage = stage_of(main_flow, child, disk=disk, clock=clock)
    stage.block_calls("slow/1")
    await stage.node.start()
    run_id = (await stage.send("9")).run
    await until(lambda: stage.called_endpoints() == ["b/1", "slow/1"])
    await stage.journal.durable
    stage.crash()
    clock.ms += 60_000
    async with stage_of(main_flow, child, disk=disk, clock=clock) as stage:
        await until(lambda: stage.state(run_id) is State.EXPIRED)
        assert stage.called_endpoints() == ["b/2"]
        assert {run.state for run in disk.runs.values()} == {State.EXPIRED}
