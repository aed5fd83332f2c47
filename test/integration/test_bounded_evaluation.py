"""A step fails if its evaluations read too many values. An evaluation blocks the node."""

from __future__ import annotations

import asyncio
import json

import pytest

from engine_stage import Stage, flows
from fractal_rm.config.model import Bounds
from fractal_rm.domain.state import State
from fractal_rm.domain.value_budget import MAX_VALUES, TooManyValues, ValueBudget
from fractal_rm.domain.value_path import ValuePath

MANY_VALUES = json.dumps([{"id": n, "score": n % 100} for n in range(60_000)])  # 180,000 values
LONG_TEXT = json.dumps({"text": "a,b" * 1_000_000, "n": 1})
TOO_MANY = f"more than {MAX_VALUES:,} values (max_evaluated_values in comm.conf)"

EVALUATING_STEPS = {
    "a path": "POST result1.[0].id",
    "a filter": 'POST result1."[?score > `90`]"',
    "a template": 'POST JSON {"a": result1.[0].id}',
    "WHEN": "POST\n  WHEN result1.[0].id == 0",
    "EXPECT": "POST\n  EXPECT result1.[0].id == 0",
    "FOREACH": "POST item\n  FOREACH result1",
    "REPLY": "REPLY result1.[0].id",
    "RUN": "RUN 2 result1.[0].id",
    "PUBLISH": 'PUBLISH "t" result1.[0].id',
    "a header": "POST\n  HEADER X-A result1.[0].id",
}


def flows_with(step: str):
    """Two flows. Flow 1 gets ``result1`` by a call, and then executes ``step``."""
    return flows(f"1\nTO a 1\nGET\nTO b 1\n{step}\n\n2\nTO b 2\nGET\n")


@pytest.mark.parametrize("step", EVALUATING_STEPS.values(), ids=EVALUATING_STEPS)
async def test_every_kind_of_evaluation_is_bounded(step):
    async with Stage(flows=flows_with(step)) as stage:
        stage.set_answer("a/1", MANY_VALUES)
        outcome = await stage.run("1")
        assert outcome.state is State.FAILED
        assert TOO_MANY in outcome.reason


@pytest.mark.parametrize("compared", ["-1 in payload.a", "payload.a == payload.a"])
async def test_one_bound_applies_to_all_comparisons_of_a_condition_together(compared):
    bounds = Bounds(max_evaluated_values=2_000)
    for times, state in ((1, State.SUCCEEDED), (5, State.FAILED)):
        condition = " and ".join([f"({compared}) == ({compared})"] * times)
        text = f"1\nTO a 1\nGET\n  WHEN {condition}\n"
        async with Stage(flows=flows(text), bounds=bounds) as stage:
            outcome = await stage.run("1", payload={"a": [[0]] * 250})
            assert outcome.state is state


async def test_a_repeated_reference_in_a_condition_is_parsed_once():
    condition = " or ".join(f'"fault {n}" == payload' for n in range(20))
    text = f"1\nTO a 1\nGET\n  WHEN not ({condition})\n"
    async with Stage(flows=flows(text), bounds=Bounds(max_evaluated_values=1_000)) as stage:
        assert (await stage.run("1", payload=[0] * 500)).state is State.SUCCEEDED
        assert stage.called_endpoints() == ["a/1"]


async def test_the_bound_can_be_configured():
    bounds = Bounds(max_evaluated_values=1_000_000)
    async with Stage(flows=flows_with(EVALUATING_STEPS["a filter"]), bounds=bounds) as stage:
        stage.set_answer("a/1", MANY_VALUES)
        assert (await stage.run("1")).state is State.SUCCEEDED


@pytest.mark.parametrize("step", ["POST result1", "POST RAW result1", "REPLY result1"])
async def test_a_whole_result_can_be_sent_although_it_has_too_many_values(step):
    async with Stage(flows=flows_with(step)) as stage:
        stage.set_answer("a/1", MANY_VALUES)
        assert (await stage.run("1")).state is State.SUCCEEDED


async def test_the_length_of_a_text_does_not_count_as_values():
    async with Stage(flows=flows_with("POST result1.n")) as stage:
        stage.set_answer("a/1", LONG_TEXT)
        assert (await stage.run("1")).state is State.SUCCEEDED
        assert stage.components.requests[-1].body == b'{"payload": [1]}'


@pytest.mark.parametrize("path", [
    "[@, @]" + "|[@, @]" * 60,  # each part makes the output twice as large
    "{a: @, b: @}|{a: @, b: @}",
    "[].[@]",
    "map(&map(&[@], @), @)",
    "sort_by([], &to_number(to_string(@)))",
])  # fmt: skip
def test_a_path_that_reads_too_many_values_is_stopped(path):
    value = [list(range(200)) for _ in range(200)]
    with pytest.raises(TooManyValues):
        ValuePath(path).pick(value, ValueBudget(40_000))
    assert ValuePath("[0][1]").pick(value, ValueBudget(40_000)) == 1


async def test_other_tasks_run_while_the_list_of_a_foreach_is_made():
    text = "1\nTO a 1\nPOST item\n  FOREACH payload\n"
    async with Stage(flows=flows(text)) as stage:
        element = json.dumps(["x" * 1_000] * 100)  # 100 KB per element
        stage.set_answer("a/1", element)
        run = asyncio.create_task(stage.run("1", payload=list(range(40))))
        turns_after_the_last_call = 0
        calls_before = 0
        while not run.done():
            await asyncio.sleep(0)
            turns_after_the_last_call += calls_before == len(stage.called_endpoints()) == 40
            calls_before = len(stage.called_endpoints())
        assert (await run).state is State.SUCCEEDED
        assert turns_after_the_last_call >= 20


async def test_other_tasks_run_between_skipped_elements():
    text = "1\nTO a 1\nPOST item\n  FOREACH payload\n  WHEN item > 0\n"
    async with Stage(flows=flows(text)) as stage:
        run = asyncio.create_task(stage.run("1", payload=[0] * 50))
        turns = 0
        while not run.done():
            await asyncio.sleep(0)
            turns += 1
        assert (await run).state is State.SUCCEEDED
        assert turns >= 50


@pytest.mark.parametrize("line", ["HEADER X-A", "QUERY a"])
async def test_the_length_of_headers_and_queries_is_bounded(line):
    async with Stage(flows=flows_with(f"POST\n  {line} result1")) as stage:
        stage.set_answer("a/1", "x" * 1_000_001)
        outcome = await stage.run("1")
        assert outcome.reason.endswith("lines have more than 1,000,000 characters")


def test_each_call_of_a_function_in_a_path_counts_as_values():
    with pytest.raises(TooManyValues):
        ValuePath("[].abs(@)").pick([1] * 200, ValueBudget(1_000))
    assert ValuePath("[].a").pick([1] * 200, ValueBudget(1_000)) == []


@pytest.mark.parametrize("text", ["1,2,3\n", '{"a": [1, "b"]},\n', '\\\\",['])
def test_commas_and_brackets_in_texts_are_not_counted(text):
    ValueBudget(10).take_text(json.dumps({"a": text * 1_000, "b": [1, text]}))


def test_more_texts_than_the_bound_are_too_many_values():
    with pytest.raises(TooManyValues):
        ValueBudget(10).take_text(json.dumps([",[{" * 10] * 1_000))
    ValueBudget(10).take_text(json.dumps({f"{n},[": ",[{" for n in range(9)}))


@pytest.mark.parametrize(
    "path",
    [
        "join(s, l)",
        "merge(" + ",".join(["o"] * 500) + ")",
        "join('', [" + ",".join(["s"] * 500) + "])",
        "[" + ",".join(["s"] * 500) + "]",
        "to_string([" + ",".join(["s"] * 500) + "])",
        "[" + ",".join(["reverse(s)"] * 500) + "]",
        "[" + ",".join(["contains(s, 'y')"] * 500) + "]",
    ],
)
def test_long_repeated_texts_are_counted_by_their_length(path):
    value = {"s": "x" * 1_000_000, "l": [""] * 500, "o": dict.fromkeys(map(str, range(300)))}
    with pytest.raises(TooManyValues):
        ValuePath(path).pick(value, ValueBudget())
    assert ValuePath("join(s, ['a', 'b'])").pick(value, ValueBudget()) == f"a{value['s']}b"
