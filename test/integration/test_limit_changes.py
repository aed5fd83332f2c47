"""The LIMIT in force is the one that holds, also for runs that were accepted under another."""

from __future__ import annotations

import msgspec
import pytest

from fractal_rm.domain.flow import Queueing, SubFlow
from fractal_rm.domain.state import State
from steps import flow, get
from worlds import Stage, until

OTHERS = {"7": flow(SubFlow(1, "8"), flow_id="7"), "6": flow(get(1, "a 1"), flow_id="6")}


def flows_with(limit: int | None):
    """Flow 8 with a LIMIT, and flow 7, which runs it."""
    return OTHERS | {"8": flow(get(1, "b 1"), flow_id="8", queueing=Queueing(limit=limit))}


async def change(stage: Stage, flows) -> None:
    await stage.node.reconfigure(msgspec.structs.replace(stage.world.config, flows=flows))
    assert (await stage.run("6")).state is State.SUCCEEDED  # what was let begin by it has begun


@pytest.mark.parametrize("asked", ["8", "7"], ids=["in line", "by RUN"])
@pytest.mark.parametrize(
    ("before", "after", "at_once"), [(1, 4, 4), (1, None, 6), (4, 1, 4), (None, 2, 6)]
)
async def test_a_changed_limit_holds_for_the_runs_that_wait(asked, before, after, at_once):
    async with Stage(flows=flows_with(before)) as stage:
        go = stage.holds("b/1")
        runs = [(await stage.send(asked)).run for _ in range(6)]
        await until(lambda: stage.called().count("b/1") == (before or 6))
        await change(stage, flows_with(after))
        runs += [(await stage.send("8")).run for _ in range(2)]
        at_once += 2 * (after is None)
        await until(lambda: stage.called().count("b/1") == at_once)
        await change(stage, flows_with(after))
        assert stage.called().count("b/1") == at_once
        go.set()
        for each in runs:
            assert (await stage.ended(each)).state is State.SUCCEEDED


def said_of_room(stage: Stage) -> str:
    return next(check.text for check in stage.node.readiness() if check.name == "room")


async def test_readiness_says_which_limit_holds_runs_up():
    async with Stage(flows=flows_with(1)) as stage:
        go = stage.holds("b/1")
        runs = [(await stage.send(each)).run for each in ("8", "8", "7", "7")]
        waits = "1 runs in flight, 3 waiting, 3 for LIMIT of flow 8"
        await until(lambda: said_of_room(stage) == waits)
        go.set()
        for each in runs:
            await stage.ended(each)
        await until(lambda: said_of_room(stage) == "0 runs in flight, 0 waiting")


async def test_runs_of_a_flow_that_is_gone_keep_its_limit_and_what_would_run_it_fails():
    async with Stage(flows=flows_with(1)) as stage:
        go = stage.holds("b/1")
        first, second, parent = [(await stage.send(each)).run for each in ("8", "8", "7")]
        await until(lambda: stage.called() == ["b/1"])
        await change(stage, OTHERS)
        assert (await stage.ended(parent)).reason == "step 1, RUN 8: flows.conf has no flow '8'"
        assert stage.facts(second) == ["Accepted"]
        go.set()
        for each in (first, second):
            assert (await stage.ended(each)).state is State.SUCCEEDED
