"""A changed LIMIT also applies to the runs that were accepted before the change."""

from __future__ import annotations

import msgspec
import pytest

from engine_stage import Stage, until
from fractal_rm.domain.flow import QueueSettings, SubFlow
from fractal_rm.domain.state import State
from steps import flow, get

OTHER_FLOWS = {"7": flow(SubFlow(1, "8"), flow_id="7"), "6": flow(get(1, "a 1"), flow_id="6")}


def flows_with(limit: int | None):
    """Three flows. Flow 8 has the LIMIT, flow 7 runs flow 8, and flow 6 only makes a call."""
    return OTHER_FLOWS | {
        "8": flow(get(1, "b 1"), flow_id="8", queueing=QueueSettings(limit=limit))
    }


async def apply_flows(stage: Stage, flows) -> None:
    """Apply changed flows, and wait until the runs that may begin now have begun."""
    await stage.node.reconfigure(msgspec.structs.replace(stage.dependencies.config, flows=flows))
    assert (await stage.run("6")).state is State.SUCCEEDED


@pytest.mark.parametrize("flow_id", ["8", "7"], ids=["of a trigger", "of a RUN step"])
@pytest.mark.parametrize(
    ("old_limit", "new_limit", "in_flight"), [(1, 4, 4), (1, None, 6), (4, 1, 4), (None, 2, 6)]
)
async def test_a_changed_limit_applies_to_waiting_runs(flow_id, old_limit, new_limit, in_flight):
    async with Stage(flows=flows_with(old_limit)) as stage:
        release = stage.block_calls("b/1")
        runs = [(await stage.send(flow_id)).run for _ in range(6)]
        await until(lambda: stage.called_endpoints().count("b/1") == (old_limit or 6))
        await apply_flows(stage, flows_with(new_limit))
        runs += [(await stage.send("8")).run for _ in range(2)]
        in_flight += 2 * (new_limit is None)
        await until(lambda: stage.called_endpoints().count("b/1") == in_flight)
        await apply_flows(stage, flows_with(new_limit))
        assert stage.called_endpoints().count("b/1") == in_flight
        release.set()
        for each in runs:
            assert (await stage.wait_for_outcome(each)).state is State.SUCCEEDED


def room_text(stage: Stage) -> str:
    return next(check.text for check in stage.node.readiness() if check.name == "room")


async def test_readiness_names_the_flow_whose_limit_delays_runs():
    async with Stage(flows=flows_with(1)) as stage:
        release = stage.block_calls("b/1")
        runs = [(await stage.send(each)).run for each in ("8", "8", "7", "7")]
        expected = "1 runs in flight, 3 waiting, 3 wait for LIMIT of flow 8"
        await until(lambda: room_text(stage) == expected)
        release.set()
        for each in runs:
            await stage.wait_for_outcome(each)
        await until(lambda: room_text(stage) == "0 runs in flight, 0 waiting")


async def test_the_limit_of_a_removed_flow_still_applies_to_its_runs_and_no_step_begins_the_flow():
    async with Stage(flows=flows_with(1)) as stage:
        release = stage.block_calls("b/1")
        first, second, parent = [(await stage.send(each)).run for each in ("8", "8", "7")]
        await until(lambda: stage.called_endpoints() == ["b/1"])
        await apply_flows(stage, OTHER_FLOWS)
        assert (
            await stage.wait_for_outcome(parent)
        ).reason == "step 1, RUN 8: flows.conf has no flow '8'"
        assert stage.facts(second) == ["Accepted"]
        release.set()
        for each in (first, second):
            assert (await stage.wait_for_outcome(each)).state is State.SUCCEEDED
