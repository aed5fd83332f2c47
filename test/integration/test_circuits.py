"""The circuit of a component: a component whose calls fail gets only one call now and then."""

from __future__ import annotations

from engine_stage import Stage, flows, settle
from fractal_rm.domain.call_errors import CallTimedOut
from fractal_rm.domain.state import State
from fractal_rm.engine.call_gates import CallGates

CIRCUIT = {"least_calls": 4, "open_s": 10}
TIMED_OUT = CallTimedOut("no answer within the time limit", sent=True)
TEXT = "1\nTO a 1\nGET\n\n2\nTO b 1\nGET\n"


def stage(**circuit: object) -> Stage:
    """A node with two flows. The component of flow 1 has a circuit."""
    return Stage(keys={"a": {"circuit": {**CIRCUIT, **circuit}}}, flows=flows(TEXT))


def gates(a_stage: Stage) -> CallGates:
    return a_stage.node.lifecycle.executor.gates


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
