"""The circuit of a component: a component whose calls fail gets only one call now and then."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from engine_stage import URL, Stage, config, flows, settle, until
from fractal_rm.config.model import Bounds
from fractal_rm.domain.actions import ActionRequest, Cancel
from fractal_rm.domain.call_errors import BadReply, CallTimedOut
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.state import State

CIRCUIT = {"least_calls": 4, "open_s": 10}
TIMED_OUT = CallTimedOut("no answer within the time limit", sent=True)
SHORT_DRAIN = Bounds(drain_s=0.01)  # a node that stops does not wait for an open circuit
TEXT = "1\nTO a 1\nGET\n\n2\nTO b 1\nGET\n"


def stage(**circuit: object) -> Stage:
    """A node with two flows. The component of flow 1 has a circuit."""
    keys = {"a": {"circuit": {**CIRCUIT, **circuit}}}
    return Stage(keys=keys, flows=flows(TEXT), bounds=SHORT_DRAIN)


async def open_circuit(a_stage: Stage) -> None:
    """Let calls of component a time out until its circuit is open."""
    a_stage.set_errors("a/1", TIMED_OUT)
    for _ in range(4):
        assert (await a_stage.run("1")).state is State.FAILED


async def pass_time(a_stage: Stage, ms: int) -> None:
    """Let time pass, and fire the timers that are due."""
    a_stage.clock.ms += ms
    await a_stage.node.watch_clock()
    await settle()


async def test_a_component_whose_calls_fail_gets_no_call_until_the_circuit_is_due():
    async with stage() as node:
        await open_circuit(node)
        waiting = [(await node.send("1")).run for _ in range(3)]
        assert (await node.run("2")).state is State.SUCCEEDED
        await settle()
        assert node.called_endpoints() == ["a/1"] * 4 + ["b/1"]
        node.set_answer("a/1", "well again")
        await pass_time(node, 9_900)
        assert node.called_endpoints().count("a/1") == 4
        await pass_time(node, 100)
        for run in waiting:
            assert (await node.wait_for_outcome(run)).state is State.SUCCEEDED
        assert node.telemetry.events.count("circuit_opened") == 1
        assert node.telemetry.events.count("circuit_closed") == 1


async def test_the_status_and_the_readiness_of_a_node_show_an_open_circuit():
    async with stage() as node:
        [a, b, *_] = (await node.node.status()).components
        assert (a.component, a.circuit, a.since_ms, a.why) == ("a", "closed", None, "")
        assert (b.component, b.circuit) == ("b", None)
        await open_circuit(node)
        opened_ms = node.clock.now_ms()
        await node.send("1")
        await settle()
        node.clock.ms += 500
        a = (await node.node.status()).components[0]
        assert (a.circuit, a.since_ms, a.waiting, a.in_flight) == ("open", opened_ms, 1, 0)
        assert a.why == (
            "4 of 4 calls in the last 30 s failed, the last one: no answer within the time limit"
        )
        check = next(each for each in node.node.readiness() if each.name == "components")
        assert check.ok
        assert check.text == f"the circuit of a is open, 1 calls wait: {a.why}"


async def test_a_node_without_circuits_says_nothing_about_them():
    async with Stage() as node:
        assert "components" not in {each.name for each in node.node.readiness()}
        release = node.block_calls("slow/1")
        await node.send("4")
        await until(lambda: node.called_endpoints() == ["slow/1"])
        statuses = {each.component: each for each in (await node.node.status()).components}
        assert (statuses["slow"].in_flight, statuses["slow"].circuit) == (1, None)
        assert statuses["a"].in_flight == 0
        release.set()


async def test_calls_that_find_enough_others_waiting_fail_with_a_cause():
    async with stage(waiting=2) as node:
        await open_circuit(node)
        waiting = [(await node.send("1")).run for _ in range(2)]
        await settle()
        outcome = await node.run("1")
        assert outcome.state is State.FAILED
        assert outcome.reason.startswith(
            "step 1, a 1: the circuit of a is open, and 2 calls wait for it: 4 of 4 calls"
        )
        failed = node.disk.facts(outcome.run)[-2]
        assert (type(failed).__name__, failed.cause) == ("StepFailed", Cause.CIRCUIT_OPEN)
        node.set_answer("a/1", "well again")
        await pass_time(node, 10_000)
        for run in waiting:
            assert (await node.wait_for_outcome(run)).state is State.SUCCEEDED


async def test_calls_that_waited_for_a_limit_are_refused_over_the_bound_when_the_circuit_opens():
    keys = {"a": {"limit": 1, "circuit": {**CIRCUIT, "least_calls": 1, "waiting": 2}}}
    async with Stage(keys=keys, flows=flows(TEXT), bounds=SHORT_DRAIN) as node:
        release = asyncio.Event()

        async def answer(_):
            await release.wait()
            raise TIMED_OUT

        node.components.answers[f"{URL}/a/1"] = answer
        runs = [(await node.send("1")).run for _ in range(6)]
        await until(lambda: node.called_endpoints() == ["a/1"])
        await settle()
        release.set()
        await until(lambda: sum(node.state(run).final for run in runs) == 4)
        causes = [node.disk.facts(run)[-1].cause for run in runs if node.state(run).final]
        assert sorted(causes) == [Cause.CIRCUIT_OPEN] * 3 + [Cause.TIMED_OUT]


async def test_a_refused_call_is_tried_again_as_its_retry_says():
    text = "1\nTO a 1\nGET\n  RETRY 1 EVERY 10s\n"
    async with Stage(keys={"a": {"circuit": {**CIRCUIT, "waiting": 0}}}) as node:
        await node.node.reconfigure(
            config(keys={"a": {"circuit": {**CIRCUIT, "waiting": 0}}}, flows=flows(text))
        )
        node.set_errors("a/1", BadReply("nonsense"))
        for _ in range(2):
            run = (await node.send("1")).run
            await settle()
            await pass_time(node, 10_000)
            await until(lambda run=run: node.state(run).final)
        run = (await node.send("1")).run
        await settle()
        assert node.facts(run)[-1] == "StepFailed"
        assert node.called_endpoints() == ["a/1"] * 4
        node.set_answer("a/1", "well again")
        await pass_time(node, 10_000)
        assert (await node.wait_for_outcome(run)).state is State.SUCCEEDED


async def test_a_failed_trial_opens_the_circuit_again_without_another_line_in_the_log():
    async with stage() as node:
        await open_circuit(node)
        runs = [(await node.send("1")).run for _ in range(3)]
        for tries in (1, 2):
            await pass_time(node, 10_000)
            await until(lambda tries=tries: sum(node.state(run).final for run in runs) == tries)
            assert node.called_endpoints() == ["a/1"] * (4 + tries)
        assert node.telemetry.events.count("circuit_opened") == 1
        node.set_answer("a/1", "well again")
        await pass_time(node, 10_000)
        assert (await node.wait_for_outcome(runs[-1])).state is State.SUCCEEDED


async def test_the_wait_for_a_circuit_ends_at_the_deadline_of_the_run():
    text = "1\nDEADLINE 5s\nTO a 1\nGET\n\n2\nTO a 1\nGET\n"
    keys = {"a": {"circuit": CIRCUIT}}
    async with Stage(keys=keys, flows=flows(text)) as node:
        node.set_errors("a/1", TIMED_OUT)
        for _ in range(4):
            await node.run("2")
        run = (await node.send("1")).run
        await settle()
        await pass_time(node, 5_000)
        outcome = await node.wait_for_outcome(run)
        assert (outcome.state, "0 of 1 calls were made" in outcome.reason) == (State.EXPIRED, True)
        node.set_answer("a/1", "well again")
        await pass_time(node, 5_000)
        assert (await node.run("2")).state is State.SUCCEEDED


async def test_a_run_that_waits_for_a_circuit_continues_after_a_crash():
    node = stage()
    await node.node.start()
    await open_circuit(node)
    run = (await node.send("1")).run
    await settle()
    node.crash()
    async with Stage(node.disk, node.clock, flows=flows(TEXT)) as after:
        assert (await after.wait_for_outcome(run)).state is State.SUCCEEDED
        assert after.called_endpoints() == ["a/1"]


async def test_a_drained_node_leaves_a_run_that_waits_for_a_circuit_to_the_next_start():
    node = Stage(keys={"a": {"circuit": CIRCUIT}}, flows=flows(TEXT), bounds=Bounds(drain_s=0.01))
    async with node:
        await open_circuit(node)
        run = (await node.send("1")).run
        await settle()
    assert not node.state(run).final
    async with Stage(node.disk, node.clock, flows=flows(TEXT)) as after:
        assert (await after.wait_for_outcome(run)).state is State.SUCCEEDED


async def test_an_ended_trial_that_says_nothing_is_followed_by_another_at_once():
    text = "1\nDEADLINE 500ms\nTO a 1\nGET\n\n2\nTO a 1\nGET\n"
    async with Stage(keys={"a": {"circuit": CIRCUIT}}, flows=flows(text)) as node:
        node.set_errors("a/1", TIMED_OUT)
        for _ in range(4):
            await node.run("2")
        node.clock.ms += 10_000
        node.block_calls("a/1")
        cut = (await node.send("1")).run
        await until(lambda: len(node.called_endpoints()) == 5)
        next_one = (await node.send("2")).run
        await settle()
        node.set_answer("a/1", "well again")
        await pass_time(node, 500)
        assert (await node.wait_for_outcome(cut)).state is State.EXPIRED
        assert (await node.wait_for_outcome(next_one)).state is State.SUCCEEDED


async def test_a_component_that_never_answers_before_the_deadline_opens_its_circuit():
    text = "1\nDEADLINE 2s\nTO a 1\nGET\n"
    async with Stage(keys={"a": {"circuit": CIRCUIT}}, flows=flows(text)) as node:
        node.block_calls("a/1")
        for _ in range(4):
            await node.send("1")
        await until(lambda: len(node.called_endpoints()) == 4)
        await pass_time(node, 2_000)
        await until(lambda: "circuit_opened" in node.telemetry.events)
        check = next(each for each in node.node.readiness() if each.name == "components")
        assert check.text.endswith("the last one: no answer until the deadline of a run")


@pytest.mark.parametrize("status", [400, 404, 429, 302])
async def test_answers_that_the_flow_does_not_want_do_not_open_the_circuit(status):
    text = "1\nTO a 1\nGET\n  EXPECT result1.ok\n"
    async with Stage(keys={"a": {"circuit": CIRCUIT}}, flows=flows(text)) as node:
        node.set_answer("a/1", '{"ok": false}', status)
        for _ in range(5):
            assert (await node.run("1")).state is State.FAILED
        node.set_answer("a/1", '{"ok": false}')
        for _ in range(5):
            assert (await node.run("1")).state is State.FAILED
        assert "circuit_opened" not in node.telemetry.events


async def test_a_circuit_that_is_removed_from_the_configuration_lets_all_calls_go():
    async with stage() as node:
        await open_circuit(node)
        runs = [(await node.send("1")).run for _ in range(3)]
        await settle()
        node.set_answer("a/1", "well again")
        await node.node.reconfigure(config(flows=flows(TEXT)))
        for run in runs:
            assert (await node.wait_for_outcome(run)).state is State.SUCCEEDED


async def test_the_probe_of_a_component_is_the_trial():
    keys = {"a": {"circuit": CIRCUIT, "probe": "2"}}
    async with Stage(keys=keys, flows=flows(TEXT)) as node:
        await open_circuit(node)
        node.set_answer("a/2", "starting", 503)
        runs = [(await node.send("1")).run for _ in range(3)]
        await settle()
        for _ in range(2):
            await pass_time(node, 10_000)
        assert node.called_endpoints() == ["a/1"] * 4 + ["a/2"] * 2
        node.set_answer("a/1", "well again")
        node.set_answer("a/2", "which call?", 400)
        await pass_time(node, 10_000)
        for run in runs:
            assert (await node.wait_for_outcome(run)).state is State.SUCCEEDED
        assert node.called_endpoints() == ["a/1"] * 4 + ["a/2"] * 3 + ["a/1"] * 3


async def test_a_cancelled_run_does_not_wait_for_the_circuit_any_longer():
    async with stage() as node:
        await open_circuit(node)
        run, other = [(await node.send("1")).run for _ in range(2)]
        await settle()
        await node.node.act(ActionRequest(Cancel(run), "anna", "r1"))
        assert (await node.wait_for_outcome(run)).state is State.CANCELLED
        node.set_answer("a/1", "well again")
        await pass_time(node, 10_000)
        assert (await node.wait_for_outcome(other)).state is State.SUCCEEDED
        assert node.called_endpoints() == ["a/1"] * 5


async def test_a_node_without_limits_calls_no_function_of_gates_and_rates():
    files = {"call_gates.py", "circuit.py", "rate.py", "requests.py", "probes.py", "rates.py"}
    called = set()

    def note(frame, event, _):
        if event == "call" and Path(frame.f_code.co_filename).name in files:
            called.add(frame.f_code.co_name)

    async with Stage(flows=flows(TEXT), balancer=None) as node:
        await node.run("1")
        sys.setprofile(note)
        try:
            await node.run("1")
        finally:
            sys.setprofile(None)
    assert called == set()
