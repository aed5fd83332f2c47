"""Execution of runs with in-memory adapters: calls, slots, connections."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from engine_stage import URL, Stage, flows, until
from fractal_rm.config.model import Bounds
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.call_errors import BadReply, CallTimedOut, ConnectFailed
from fractal_rm.domain.state import State
from fractal_rm.engine.node import Node


async def test_calls_are_made_in_order_and_can_use_earlier_results():
    async with Stage() as stage:
        outcome = await stage.run("1", payload={"x": [1, 2.50]})
        assert outcome.state is State.SUCCEEDED
        assert stage.called_endpoints() == ["a/1", "b/1", "a/1"]
        assert [request.body for request in stage.components.requests] == [
            b'{"payload": [{"x": [1, 2.5]}]}',
            b'{"payload": ["from a/1"]}',
            b'{"payload": ["from a/1", "from b/1"]}',
        ]
        assert [msgspec.json.decode(r) for r in outcome.results] == [
            "from a/1",
            "from b/1",
            "from a/1",
        ]


async def test_each_call_has_its_own_idempotency_key():
    async with Stage() as stage:
        accepted = await stage.send("1")
        await stage.wait_for_outcome(accepted.run)
        keys = [request.headers["idempotency-key"] for request in stage.components.requests]
        assert keys == [f"{accepted.run}:{n}" for n in (1, 2, 3)]


async def test_facts_are_written_in_order():
    async with Stage() as stage:
        accepted = await stage.send("1")
        await stage.wait_for_outcome(accepted.run)
    assert stage.facts(accepted.run) == ["Accepted", "Placed", *["Finished"] * 3, "Settled"]


@pytest.mark.parametrize("status", [400, 404, 500, 503])
async def test_an_error_status_fails_the_step_and_the_run(status):
    async with Stage() as stage:
        stage.set_answer("b/1", "out of paper", status)
        outcome = await stage.run("1")
        assert outcome.state is State.FAILED
        assert outcome.reason == f"step 2, b 1: status {status}: out of paper"
        assert stage.called_endpoints() == ["a/1", "b/1"]


@pytest.mark.parametrize(
    "error",
    [CallTimedOut("no answer within the time limit", sent=True), BadReply("not HTTP")],
)
async def test_without_retry_in_the_flow_a_call_that_may_have_arrived_is_not_repeated(error):
    async with Stage() as stage:
        stage.set_errors("b/1", error)
        outcome = await stage.run("1")
        assert outcome.state is State.FAILED
        assert str(error) in outcome.reason
        assert stage.called_endpoints() == ["a/1", "b/1"]


async def test_a_call_whose_connection_is_refused_is_tried_three_times():
    async with Stage() as stage:
        stage.set_errors("b/1", ConnectFailed("refused"), ConnectFailed("refused"), None)
        assert (await stage.run("1")).state is State.SUCCEEDED
        stage.set_errors("b/1", ConnectFailed("refused"))
        outcome = await stage.run("1")
        assert (outcome.state, outcome.reason) == (State.FAILED, "step 2, b 1: refused")


async def test_a_call_that_must_not_be_repeated_is_recorded_before_it_is_sent():
    async with Stage() as stage:
        facts_at_call = []

        async def record(_):
            (run_id,) = stage.disk.runs
            facts_at_call.extend(stage.facts(run_id))
            return await answer(_)

        answer = stage.components.answers[f"{URL}/once/1"]
        stage.components.answers[f"{URL}/once/1"] = record
        assert (await stage.run("3")).state is State.SUCCEEDED
        assert facts_at_call == ["Accepted", "Placed", "RequestStarted"]


async def test_a_call_waits_until_the_previous_step_is_durable_with_the_setting_durable_step():
    async with Stage() as stage:
        facts_at_calls = []

        def record(name):
            answer = stage.components.answers[f"{URL}/{name}"]

            async def recorded(call):
                (run_id,) = stage.disk.runs
                facts_at_calls.append(stage.facts(run_id))
                return await answer(call)

            stage.components.answers[f"{URL}/{name}"] = recorded

        record("a/1")
        record("b/1")
        assert (await stage.run("5")).state is State.SUCCEEDED
        first_facts = ["Accepted", "Placed", "RequestStarted"]
        assert facts_at_calls == [first_facts, [*first_facts, "Finished", "RequestStarted"]]


async def test_a_crash_in_the_second_try_leaves_the_run_unknown_if_the_call_is_not_idempotent():
    stage = Stage()
    await stage.node.start()
    second_try_begun = asyncio.Event()

    async def answer(_):
        if not second_try_begun.is_set() and len(stage.components.requests) == 1:
            raise ConnectFailed("refused")
        second_try_begun.set()
        await asyncio.Event().wait()

    stage.components.answers[f"{URL}/once/1"] = answer
    run = (await stage.send("3")).run
    await second_try_begun.wait()
    await until(lambda: stage.facts(run)[-1] == "RequestStarted")
    stage.crash()
    async with Stage(stage.disk) as restarted:
        await restarted.wait_for_outcome(run)
        assert restarted.state(run) is State.UNKNOWN
        assert restarted.called_endpoints() == []


async def test_a_call_that_waited_for_a_slot_is_made_after_a_restart():
    stage = Stage(bounds=Bounds(drain_s=0.01), keys={"once": {"limit": 1}})
    await stage.node.start()
    stage.block_calls("once/1")
    first, second = [(await stage.send("3")).run for _ in range(2)]
    await until(lambda: "RequestStarted" in stage.facts(first))
    await stage.node.drain()
    async with Stage(stage.disk) as restarted:
        await restarted.wait_for_outcome(first)
        await restarted.wait_for_outcome(second)
        assert (restarted.state(first), restarted.state(second)) == (State.UNKNOWN, State.SUCCEEDED)


async def test_no_run_begins_while_results_exceed_the_memory_bound():
    async with Stage(bounds=Bounds(max_inflight_bytes=100_000)) as stage:
        stage.set_answer("a/1", "x" * 60_000)
        release = stage.block_calls("b/1")
        for _ in range(50):
            await stage.send("1")
        await until(lambda: stage.called_endpoints().count("b/1") >= 2)
        load = stage.load
        in_flight = load.in_flight
        await stage.send("1")
        await asyncio.sleep(0)
        assert load.in_flight == in_flight < 50
        release.set()
        await until(lambda: stage.node.unfinished == 0)
        assert load.result_bytes == load.payload_bytes == 0


async def test_a_slow_component_does_not_delay_other_flows():
    bounds = Bounds(max_inflight_runs=10)
    async with Stage(bounds=bounds) as stage:
        release = stage.block_calls("slow/1")
        slow = [await stage.send("4") for _ in range(50)]
        for _ in range(20):
            assert (await stage.run("2")).state is State.SUCCEEDED
        release.set()
        await until(lambda: all(stage.state(accepted.run).final for accepted in slow))


async def test_thousands_of_runs_are_in_flight_at_once():
    async with Stage(bounds=Bounds(max_inflight_runs=5_000)) as stage:
        release = stage.block_calls("slow/1")
        for _ in range(3_000):
            await stage.send("4")
        await until(lambda: len(stage.components.requests) == 3_000)
        release.set()
        await until(lambda: stage.node.unfinished == 0)


async def test_calls_in_flight_do_not_exceed_the_limit_of_their_component():
    async with Stage(keys={"slow": {"limit": 3}}) as stage:
        release = stage.block_calls("slow/1")
        for _ in range(10):
            await stage.send("4")
        await until(lambda: len(stage.components.requests) == 3)
        release.set()
        await until(lambda: stage.node.unfinished == 0)
        assert len(stage.components.requests) == 10


@pytest.mark.parametrize(
    "flow",
    [
        "1\nTO a 1\nPOST item\n  FOREACH payload\n  LIMIT 9",
        "1\nORDER dataflow" + "\nTO a 1\nGET" * 9,
        "1\nORDER dataflow" + "\nRUN 2 payload" * 9 + "\n\n2\nTO a 1\nGET",
    ],
)
async def test_concurrent_calls_of_runs_share_half_of_the_connections(flow):
    """Half of the connections are shared. A component takes one if it has fewer than are free."""
    stage = Stage(flows=flows(f"{flow}\n"))
    stage.dependencies.connections = 8
    stage.node = Node(stage.dependencies, {})
    async with stage:
        in_progress = max_in_progress = 0

        async def answer(_):
            nonlocal in_progress, max_in_progress
            in_progress += 1
            max_in_progress = max(max_in_progress, in_progress)
            await asyncio.sleep(0)
            in_progress -= 1
            return HttpResponse(200, b"", b"1")

        stage.components.answers[f"{URL}/a/1"] = answer
        for _ in range(3):
            await stage.send("1", payload=[0] * 9)
        await until(lambda: stage.node.unfinished == 0)
        assert (len(stage.components.requests), max_in_progress) == (27, 2)


async def test_components_that_hang_leave_connections_for_other_components():
    """Of four shared connections, the first component gets two and the second gets one."""
    flow = "{0}\nTO {1} 1\nPOST item\n  FOREACH payload\n  LIMIT 9\n"
    flow_texts = [
        flow.format(number, name) for number, name in enumerate(("a", "b", "slow"), start=1)
    ]
    stage = Stage(flows=flows("\n".join(flow_texts)))
    stage.dependencies.connections = 8
    stage.node = Node(stage.dependencies, {})
    async with stage:
        released = asyncio.Event()

        async def hang(_):
            await released.wait()
            return HttpResponse(200, b"", b"1")

        for name in "ab":
            stage.components.answers[f"{URL}/{name}/1"] = hang
        stage.components.answers[f"{URL}/slow/1"] = HttpResponse(200, b"", b"1")
        for number in "12":
            await stage.send(number, payload=[0] * 9)
        await until(lambda: len(stage.components.requests) == 3)
        for _ in range(2):
            await stage.send("3", payload=[0] * 9)
        await until(lambda: len(stage.components.requests) == 3 + 18)
        released.set()
        await until(lambda: stage.node.unfinished == 0)
        assert len(stage.components.requests) == 4 * 9
