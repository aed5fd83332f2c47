"""FOREACH makes a call for each element of a list. The adapters are in memory."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest

from engine_stage import URL, ManualClock, Stage, until
from fractal_rm.adapters.memory.journal import JournalContent
from fractal_rm.config.model import Bounds
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.expression import (
    Compare,
    Comparison,
    Item,
    Literal,
    ObjectOf,
    Payload,
    Result,
    Status,
)
from fractal_rm.domain.flow import Durability, OnError, Retry
from fractal_rm.domain.state import State
from steps import each, flow, get, post

STEP = Durability.STEP


def stage_of(main_flow, disk=None, clock=None, **changes):
    return Stage(disk, clock, flows={main_flow.id: main_flow}, **changes)


def echo_items(stage, name, *, fails_on=()):
    """Let an endpoint return the item of each request, with status 500 for items in ``fails_on``.

    Returns a list of two counts: the calls that are in flight, and their maximum so far.
    """
    in_flight = [0, 0]

    async def answer(request):
        in_flight[0] += 1
        in_flight[1] = max(in_flight)
        await asyncio.sleep(0)
        in_flight[0] -= 1
        item = json.loads(request.body)["payload"][0]
        return HttpResponse(500 if item in fails_on else 200, b"", json.dumps(item).encode())

    stage.components.answers[f"{URL}/{name}"] = answer
    return in_flight


def result(outcome, number):
    """The decoded result of step ``number``, which is a JSON text."""
    return json.loads(json.loads(bytes(outcome.results[number - 1])))


@pytest.mark.parametrize("max_concurrent", [1, 2, 9])
async def test_a_call_is_made_for_each_element_and_concurrent_calls_do_not_exceed_the_limit(
    max_concurrent,
):
    main_flow = flow(
        post(1, "a 1", Item(), foreach=each(Payload("list"), max_concurrent)),
        post(2, "b 1", Result(1)),
    )
    async with stage_of(main_flow) as stage:
        in_flight = echo_items(stage, "a/1")
        run_id = (await stage.send("9", payload={"list": [1, "x", None, {"a": [2.5]}]})).run
        outcome = await stage.wait_for_outcome(run_id)
        assert outcome.state is State.SUCCEEDED
        assert result(outcome, 1) == [1, "x", None, {"a": [2.5]}]
        assert in_flight[1] == min(max_concurrent, 4)
        keys = [request.headers["idempotency-key"] for request in stage.components.requests]
        assert keys == [*(f"{run_id}:1.{n}" for n in (1, 2, 3, 4)), f"{run_id}:2"]
        assert stage.load.result_bytes == 0


async def test_the_options_of_a_call_may_refer_to_the_item():
    options = {
        "foreach": each(Result(1)),
        "json": ObjectOf((("id", Item("id")), ("all", Item()), ("p", Payload()))),
        "when": Compare(Comparison.GREATER, Item("id"), Literal(1)),
        "query": (("q", Item("id")),),
        "expect": Compare(Comparison.EQUAL, Status(2), Literal(202)),
        "expect_decides": True,
    }
    main_flow = flow(get(1, "a 1"), post(2, "b 1", **options))
    async with stage_of(main_flow) as stage:
        stage.set_answer("a/1", '[{"id": 1}, {"id": 2}, {"id": 3}]')
        for number in (2, 3):
            stage.set_answer(f"b/1?q={number}", f"text {number}", 202)
        outcome = await stage.run("9")
        assert outcome.state is State.SUCCEEDED
        assert result(outcome, 2) == [None, "text 2", "text 3"]
        bodies = [json.loads(request.body) for request in stage.components.requests[1:]]
        assert bodies == [{"id": n, "all": {"id": n}, "p": "p"} for n in (2, 3)]


async def test_a_false_condition_without_the_item_skips_the_whole_step():
    main_flow = flow(get(1, "a 1", foreach=each(Payload()), when=Literal(False)))
    async with stage_of(main_flow) as stage:
        outcome = await stage.run("9", payload="no list")
        assert (outcome.state, bytes(outcome.results[0])) == (State.SUCCEEDED, b"null")


async def test_a_foreach_over_an_empty_list_makes_no_call():
    async with stage_of(flow(get(1, "a 1", foreach=each(Payload())))) as stage:
        outcome = await stage.run("9", payload=[])
        assert result(outcome, 1) == []
        assert stage.called_endpoints() == []


async def test_a_foreach_can_iterate_over_the_result_of_another_foreach():
    main_flow = flow(
        post(1, "a 1", Item(), foreach=each(Payload())),
        post(2, "a 1", Item(), foreach=each(Result(1))),
    )
    async with stage_of(main_flow) as stage:
        echo_items(stage, "a/1")
        assert result(await stage.run("9", payload=[1, 2]), 2) == [1, 2]


@pytest.mark.parametrize(
    ("over", "payload", "reason"),
    [
        (Payload(), {"a": 1}, "FOREACH needs a list, and payload is an object"),
        (Payload("none"), {"a": 1}, "FOREACH needs a list, and payload.none is null"),
        (Payload(), "text", "FOREACH needs a list, and payload is a text"),
        (Result(1), 1, "result1 is not JSON"),
        (Result(1, "x"), 1, "result1 is not JSON"),
        (Payload(), [0] * 20_000, "FOREACH takes at most 10000 elements, not 20000"),
    ],
)
async def test_a_foreach_fails_if_the_value_is_not_a_list_or_the_list_is_too_long(
    over, payload, reason
):
    main_flow = flow(get(1, "a 1"), get(2, "b 1", foreach=each(over)))
    async with stage_of(main_flow, bounds=Bounds(max_trigger_bytes=1_000_000)) as stage:
        outcome = await stage.run("9", payload=payload)
        assert outcome.state is State.FAILED
        assert outcome.reason.startswith(f"step 2, b 1: {reason}")
        assert stage.called_endpoints() == ["a/1"]


async def test_results_of_more_than_8_mib_fail_the_step():
    async with stage_of(flow(get(1, "a 1", foreach=each(Payload())))) as stage:
        stage.set_answer("a/1", "x" * (3 * 1024 * 1024))
        outcome = await stage.run("9", payload=[0] * 100)
        assert outcome.reason == "step 1, a 1: the value is larger than 8 MiB"
        assert len(stage.called_endpoints()) == 3
        assert stage.load.result_bytes == 0


async def test_after_an_element_fails_the_elements_in_flight_finish_and_then_the_step_fails():
    main_flow = flow(post(1, "a 1", Item(), foreach=each(Payload(), 2)), get(2, "b 1"))
    async with stage_of(main_flow) as stage:
        echo_items(stage, "a/1", fails_on=(3,))
        run_id = (await stage.send("9", payload=[1, 2, 3, 4, 5, 6])).run
        outcome = await stage.wait_for_outcome(run_id)
        assert (outcome.state, outcome.reason) == (
            State.FAILED,
            "step 1, a 1, element 3: status 500: 3",
        )
        assert len(stage.called_endpoints()) == 4
        assert stage.facts(run_id).count("ElementFinished") == 3


async def test_a_failed_element_has_a_response_or_an_error_text_with_the_setting_errors_continue():
    main_flow = flow(post(1, "a 1", Item(), foreach=each(Payload())), errors=OnError.CONTINUE)
    async with stage_of(main_flow) as stage:
        echo_items(stage, "a/1", fails_on=(2,))  # status 500, and the item as the body
        assert result(await stage.run("9", payload=[1, 2, 3]), 1) == [1, 2, 3]
        stage.components.answers.clear()  # from now on, connections are refused
        assert result(await stage.run("9", payload=[1]), 1) == ["[Request_Maker] - error."]
        stage.set_answer("a/1", "x" * (5 * 1024 * 1024))
        outcome = await stage.run("9", payload=[1, 2, 3])
        assert json.loads(bytes(outcome.results[0])) == "[Request_Maker] - error."
        assert stage.load.result_bytes == 0


async def test_each_element_is_retried_separately():
    main_flow = flow(post(1, "a 1", Item(), foreach=each(Payload()), retry=Retry(1, 1)))
    async with stage_of(main_flow) as stage:
        requests_by_body = Counter()

        async def answer(request):
            requests_by_body[request.body] += 1
            return HttpResponse(503 if requests_by_body[request.body] == 1 else 200, b"", b"7")

        stage.components.answers[f"{URL}/a/1"] = answer
        assert result(await stage.run("9", payload=[1, 2]), 1) == [7, 7]
        assert set(requests_by_body.values()) == {2}


@pytest.mark.parametrize("max_concurrent", [1, 3])
async def test_after_a_crash_finished_elements_are_not_called_again(max_concurrent):
    disk, clock = JournalContent(), ManualClock()
    main_flow = flow(post(1, "a 1", Item(), foreach=each(Payload(), max_concurrent)), durable=STEP)
    stage = stage_of(main_flow, disk, clock)
    hold = asyncio.Event()

    async def answer(request):
        item = json.loads(request.body)["payload"][0]
        if item >= 4:
            await hold.wait()
        return HttpResponse(200, b"", json.dumps(item).encode())

    stage.components.answers[f"{URL}/a/1"] = answer
    await stage.node.start()
    run_id = (await stage.send("9", payload=[1, 2, 3, 4, 5, 6])).run
    await until(lambda: len(stage.called_endpoints()) == 3 + max_concurrent)
    await until(lambda: stage.facts(run_id).count("ElementFinished") == 3)
    stage.crash()
    stage = stage_of(main_flow, disk, clock)
    echo_items(stage, "a/1")
    async with stage:
        outcome = await stage.wait_for_outcome(run_id)
        assert result(outcome, 1) == [1, 2, 3, 4, 5, 6]
        assert sorted(json.loads(r.body)["payload"][0] for r in stage.components.requests) == [
            4,
            5,
            6,
        ]
        assert stage.load.result_bytes == 0


async def test_after_a_crash_in_a_foreach_call_that_is_not_idempotent_the_run_is_unknown():
    disk, clock = JournalContent(), ManualClock()
    main_flow = flow(post(1, "once 1", Item(), foreach=each(Payload())))
    stage = stage_of(main_flow, disk, clock)
    stage.block_calls("once/1")
    await stage.node.start()
    run_id = (await stage.send("9", payload=[1, 2])).run
    await until(lambda: stage.called_endpoints() == ["once/1"])
    stage.crash()
    async with stage_of(main_flow, disk, clock) as stage:
        await until(lambda: stage.state(run_id) is State.UNKNOWN)
        assert stage.called_endpoints() == []
        assert (
            "element 1: the component was called, and its answer was lost"
            in disk.facts(run_id)[-1].reason
        )
