"""A reason with a long list names the first entries, and the number of the others."""

from __future__ import annotations

import re

from engine_stage import ManualClock, Stage, flows, until
from fractal_rm.domain.expression import Item, Payload
from fractal_rm.domain.flow import Order, SubFlow
from fractal_rm.domain.list_names import list_names
from fractal_rm.domain.state import State
from mqtt_stage import connected, flows_on
from scripted_broker import ScriptedBroker, connack
from steps import each, flow, get, post, undo

MINUTE_MS = 60_000
DATAFLOW = {"order": Order.DATAFLOW}


async def expire(stage, run_id):
    """Move the clock past the deadline of a run. Returns the outcome of the run."""
    stage.clock.ms += MINUTE_MS
    await stage.node.watch_clock()
    return await stage.wait_for_outcome(run_id)


def stage_of(*flows):
    return Stage(clock=ManualClock(), flows={main_flow.id: main_flow for main_flow in flows})


def test_a_list_has_at_most_eight_names():
    assert list_names([]) == ""
    assert list_names("abcdefgh") == "a, b, c, d, e, f, g, h"
    assert list_names("abcdefghi") == "a, b, c, d, e, f, g, h and 1 more"
    assert list_names("a" * 2_008).endswith("a and 2,000 more")


async def test_the_first_of_many_elements_in_doubt_are_named():
    main_flow = flow(
        post(1, "once 1", Item(), foreach=each(Payload(), 2_008)), deadline_ms=MINUTE_MS
    )
    async with stage_of(main_flow) as stage:
        stage.block_calls("once/1")
        run_id = (await stage.send("9", list(range(2_008)))).run
        await until(lambda: len(stage.called_endpoints()) == 2_008)
        outcome = await expire(stage, run_id)
        assert outcome.state is State.EXPIRED
        assert outcome.reason == (
            "the deadline of 60 s ended when 0 of 1 calls were made, and call 1.1, 1.2, 1.3, 1.4,"
            " 1.5, 1.6, 1.7, 1.8 and 2,000 more may have been made"
        )


async def test_the_first_of_many_child_runs_in_doubt_are_named():
    child = flow(get(1, "once 1"), flow_id="6")
    main_flow = flow(*(SubFlow(n, "6") for n in range(1, 12)), deadline_ms=MINUTE_MS, **DATAFLOW)
    async with stage_of(main_flow, child) as stage:
        stage.block_calls("once/1")
        run_id = (await stage.send("9")).run
        await until(lambda: len(stage.called_endpoints()) == 11)
        reason = (await expire(stage, run_id)).reason
        assert (
            len(re.findall("and call 1 of child run [0-9A-Z]{26} may have been made", reason)) == 8
        )
        assert reason.endswith(", and calls of 3 more child runs may have been made")


async def test_a_reason_names_each_descendant_with_the_calls_of_this_descendant():
    grandchild = flow(get(1, "once 1"), flow_id="5")
    child = flow(get(1, "once 1"), SubFlow(2, "5"), flow_id="6", **DATAFLOW)
    main_flow = flow(SubFlow(1, "6"), deadline_ms=MINUTE_MS)
    async with stage_of(main_flow, child, grandchild) as stage:
        stage.block_calls("once/1")
        run_id = (await stage.send("9")).run
        await until(lambda: len(stage.called_endpoints()) == 2)
        reason = (await expire(stage, run_id)).reason
        by_flow = {run.flow.id: each for each, run in stage.disk.runs.items()}
        parts = [f", and call 1 of child run {by_flow[each]} may have been made" for each in "65"]
        assert reason.endswith("0 of 1 calls were made" + "".join(parts))


async def test_the_first_of_many_failed_undos_are_in_the_reason():
    steps = [get(n, "a 1", undo=undo("2")) for n in range(1, 13)]
    async with stage_of(flow(*steps, get(13, "b 1"))) as stage:
        stage.set_answer("b/1", "no", 500)
        stage.set_answer("a/2", "stuck", 500)
        reason = (await stage.run("9")).reason
        assert reason.count("; undo of step ") == 8
        assert "; undo of step 12, a 2: status 500: stuck; " in reason
        assert reason.endswith("; and 4 more")
        assert stage.called_endpoints().count("a/2") == 12


async def test_a_reason_over_many_levels_of_runs_keeps_the_first_cause():
    undone = [get(n, "a 1", undo=undo("2")) for n in range(1, 9)]
    flows = [flow(*undone, SubFlow(9, f"{n + 1}"), flow_id=f"{n}") for n in range(1, 16)]
    async with stage_of(*flows, flow(get(1, "b 1"), flow_id="16")) as stage:
        stage.set_answer("b/1", "the cause", 500)
        stage.set_answer("a/2", "x" * 5_000, 500)
        reason = (await stage.run("1")).reason
        assert "step 1, b 1: status 500: the cause" in reason
        assert len(reason) < 5_000


async def test_the_first_of_many_refused_topics_are_named(tmp_path):
    broker = ScriptedBroker(lambda _: connack())
    grant_all = broker.answer

    def refuse_secret_topics(first, data):
        answer = grant_all(first, data)
        return answer[:-1] + b"\x87" if first == 0x82 and b"secret/" in data else answer

    broker.answer = refuse_secret_topics
    flows = flows_on(**{f"f{n}": (f"secret/{n}",) for n in range(12)})
    async with broker.listening(), connected(broker, tmp_path) as way_in:
        way_in.change_flows(flows)
        await until(lambda: "refuses subscriptions to" in way_in.status().text)
        text = way_in.status().text
        assert text.count("secret/") == 8
        assert text.endswith(" and 4 more")


async def test_a_long_value_in_an_error_of_a_path_is_shortened():
    main_flow = flows('1\nTO a 1\nPOST payload."floor(@)"\n')
    async with Stage(flows=main_flow) as stage:
        outcome = await stage.run("1", payload="x" * 200_000)
        assert outcome.state is State.FAILED
        assert outcome.reason.startswith("step 1, a 1: payload.floor(@): In function floor()")
        assert outcome.reason.endswith("expected one of: ['number'], received: \"string\"")
        assert len(outcome.reason) < 500
