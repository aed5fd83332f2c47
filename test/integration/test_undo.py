"""UNDO: finished steps are undone after a later step has failed, also after a crash."""

from __future__ import annotations

import asyncio

import pytest

from engine_stage import URL, ManualClock, Stage, until
from fractal_rm.adapters.memory.journal import JournalContent
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.expression import Literal, Payload, Result
from fractal_rm.domain.flow import Durability, OnError, Retry
from fractal_rm.domain.state import State
from steps import each, flow, get, undo

UNDO_FLOW = flow(
    get(1, "a 1", undo=undo("2", Result(1), Payload())),
    get(2, "b 1", undo=undo("2")),
    get(3, "slow 1", undo=undo("1")),
)


def stage_of(main_flow, disk=None, clock=None, **changes):
    stage = Stage(disk, clock, flows={main_flow.id: main_flow}, **changes)
    stage.set_answer("slow/1", "no", 500)
    return stage


async def test_finished_steps_are_undone_in_reverse_order_and_the_failed_step_is_not_undone():
    async with stage_of(UNDO_FLOW) as stage:
        run_id = (await stage.send("9")).run
        outcome = await stage.wait_for_outcome(run_id)
        assert (outcome.state, outcome.reason) == (
            State.FAILED,
            "step 3, slow 1: status 500: no",
        )
        assert stage.called_endpoints() == ["a/1", "b/1", "slow/1", "b/2", "a/2"]
        *_, second, first = stage.components.requests
        assert (first.method, first.body) == ("POST", b'{"payload": ["from a/1", "p"]}')
        assert (second.method, second.body) == ("POST", b'{"payload": []}')
        keys = [request.headers["idempotency-key"] for request in (second, first)]
        assert keys == [f"{run_id}:undo.2", f"{run_id}:undo.1"]
        assert stage.facts(run_id)[-4:] == ["Stopping", "StepUndone", "StepUndone", "Settled"]
        assert len(outcome.results) == 2


async def test_a_run_that_succeeds_undoes_no_step():
    async with stage_of(UNDO_FLOW) as stage:
        stage.set_answer("slow/1", "yes")
        assert (await stage.run("9")).state is State.SUCCEEDED
        assert stage.called_endpoints() == ["a/1", "b/1", "slow/1"]


async def test_skipped_steps_are_not_undone():
    main_flow = flow(
        get(1, "a 1", undo=undo("2"), when=Literal(False)),
        get(2, "b 1", undo=undo("2"), foreach=each(Payload())),
        get(3, "slow 1"),
    )
    async with stage_of(main_flow) as stage:
        assert (await stage.run("9", payload=[])).state is State.FAILED
        assert stage.called_endpoints() == ["slow/1"]


async def test_no_step_is_undone_with_the_setting_errors_continue():
    main_flow = flow(*UNDO_FLOW.steps, errors=OnError.CONTINUE)
    async with stage_of(main_flow) as stage:
        assert (await stage.run("9")).state is State.SUCCEEDED
        assert stage.called_endpoints() == ["a/1", "b/1", "slow/1"]


async def test_a_failed_undo_is_in_the_reason_and_the_other_undos_are_made():
    async with stage_of(UNDO_FLOW) as stage:
        stage.set_answer("b/2", "stuck", 500)
        outcome = await stage.run("9")
        assert outcome.state is State.FAILED
        assert outcome.reason == (
            "step 3, slow 1: status 500: no; undo of step 2, b 2: status 500: stuck"
        )
        assert stage.called_endpoints()[-2:] == ["b/2", "a/2"]


async def test_the_deadline_of_a_run_does_not_limit_its_undo():
    main_flow = flow(*UNDO_FLOW.steps, deadline_ms=30)
    async with stage_of(main_flow) as stage:
        stage.block_calls("slow/1")
        run_id = (await stage.send("9")).run
        outcome = await stage.wait_for_outcome(run_id)
        assert outcome.state is State.EXPIRED
        assert stage.called_endpoints()[-2:] == ["b/2", "a/2"]
        has_time_left = ["fractal-time-left" in r.headers for r in stage.components.requests]
        assert has_time_left == [True, True, True, False, False]


async def test_an_unknown_run_is_not_undone():
    disk, clock = JournalContent(), ManualClock()
    main_flow = flow(get(1, "a 1", undo=undo("2")), get(2, "once 1"))
    stage = stage_of(main_flow, disk, clock)
    stage.block_calls("once/1")
    await stage.node.start()
    run_id = (await stage.send("9")).run
    await until(lambda: stage.called_endpoints()[-1:] == ["once/1"])
    stage.crash()
    async with stage_of(main_flow, disk, clock) as stage:
        await until(lambda: stage.state(run_id) is State.UNKNOWN)
        assert stage.called_endpoints() == []


@pytest.mark.parametrize("durable", [Durability.ACCEPT, Durability.STEP])
async def test_after_a_crash_only_the_remaining_undos_are_made(durable):
    disk, clock = JournalContent(), ManualClock()
    main_flow = flow(*UNDO_FLOW.steps, durable=durable)
    stage = stage_of(main_flow, disk, clock)
    stage.set_answer("b/2", "stuck", 500)
    stage.block_calls("a/2")
    await stage.node.start()
    run_id = (await stage.send("9")).run
    await until(lambda: stage.called_endpoints()[-1:] == ["a/2"])
    await until(lambda: stage.facts(run_id).count("StepFailed") == 2)
    stage.crash()
    async with stage_of(main_flow, disk, clock) as stage:
        outcome = await stage.wait_for_outcome(run_id)
        assert stage.called_endpoints() == ["a/2"]
        assert outcome.reason == (
            "step 3, slow 1: status 500: no; undo of step 2, b 2: status 500: stuck"
        )


async def test_an_undo_in_doubt_that_is_not_idempotent_is_in_the_reason():
    disk, clock = JournalContent(), ManualClock()
    main_flow = flow(
        get(1, "a 1", undo=undo("2")), get(2, "once 1", undo=undo("2")), get(3, "slow 1")
    )
    stage = stage_of(main_flow, disk, clock)
    stage.block_calls("once/2")
    await stage.node.start()
    run_id = (await stage.send("9")).run
    await until(lambda: stage.called_endpoints()[-1:] == ["once/2"])
    stage.crash()
    async with stage_of(main_flow, disk, clock) as stage:
        await until(lambda: stage.state(run_id) is State.FAILED)
        assert stage.called_endpoints() == ["a/2"]
        assert "undo of step 2, once 2: the component was called, and its answer was lost" in (
            disk.facts(run_id)[-1].reason
        )


# --- retries ------------------------------------------------------------------------------------


async def test_after_a_crash_earlier_attempts_of_a_call_count_and_its_pause_continues():
    disk, clock = JournalContent(), ManualClock()
    main_flow = flow(get(1, "a 1", retry=Retry(2, 1)))
    requests: list[int] = []

    def answer_with_503(stage):
        async def answer(_):
            requests.append(1)
            if len(requests) == 2 and stage is first:
                await asyncio.Event().wait()
            return HttpResponse(503, b"", b"no")

        stage.components.answers[f"{URL}/a/1"] = answer

    first = stage_of(main_flow, disk, clock)
    answer_with_503(first)
    await first.node.start()
    run_id = (await first.send("9")).run
    await until(lambda: len(requests) == 2)
    first.crash()
    clock.ms += 1000
    second = stage_of(main_flow, disk, clock)
    answer_with_503(second)
    async with second:
        await until(lambda: second.state(run_id) is State.FAILED)
    attempts = [fact.attempt for fact in disk.facts(run_id) if hasattr(fact, "attempt")]
    assert [n for n in attempts if n] == [1, 2, 2, 3]  # the second 2 is in the fact Restarted
    assert len(requests) == 4
