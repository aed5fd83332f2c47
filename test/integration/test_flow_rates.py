"""LIMIT 10/s: the runs of a flow begin evenly, and other flows do not wait for them."""

from __future__ import annotations

import pytest

from engine_stage import SILENT, ManualClock, Stage, config, flows, peer, settle, until
from fractal_rm.adapters.memory.journal import JournalContent
from fractal_rm.config.model import Bounds
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.rate import Rate
from fractal_rm.domain.state import State

TEXT = "7\nLIMIT {}\nTO a 1\nPOST payload\n\n8\nTO b 1\nPOST payload\n"


def stage(limit: str = "10/s", more: str = "", **changes) -> Stage:
    """A node with flow 7, which has a LIMIT, and flow 8, which has none."""
    return Stage(flows=flows(TEXT.format(limit) + more), balancer=None, **changes)


async def pass_time(node: Stage, ms: int) -> None:
    """Let time pass, and fire the timers that are due."""
    node.clock.ms += ms
    await node.node.watch_clock()
    await settle()


def payloads(node: Stage) -> list[bytes]:
    return [request.body for request in node.components.requests]


async def test_the_runs_of_a_flow_begin_evenly_and_other_flows_do_not_wait():
    async with stage() as node:
        for number in range(5):
            await node.send("7", payload=number)
        await settle()
        assert node.called_endpoints() == ["a/1"]
        for _ in range(3):
            assert (await node.run("8")).state is State.SUCCEEDED
        for begun in range(2, 6):
            await pass_time(node, 99)
            assert node.called_endpoints().count("a/1") == begun - 1
            await pass_time(node, 1)
            assert node.called_endpoints().count("a/1") == begun
        assert node.node.unfinished == 0


async def test_a_number_and_a_rate_apply_together():
    async with stage("2 10/s") as node:
        release = node.block_calls("a/1")
        for _ in range(5):
            await node.send("7")
        await settle()
        for _ in range(9):
            await pass_time(node, 100)
        assert node.load.in_flight == 2
        release.set()
        await until(lambda: node.called_endpoints().count("a/1") == 3)
        await pass_time(node, 100)
        await until(lambda: node.called_endpoints().count("a/1") == 4)
        await pass_time(node, 100)
        await until(lambda: node.node.unfinished == 0)


async def test_a_waiting_run_may_become_stale_or_be_replaced_by_a_newer_one():
    async with stage("1/h\nSTALE 5s\nLATEST 'all'") as node:
        await node.run("7", payload=1)
        old = (await node.send("7", payload=2)).run
        new = (await node.send("7", payload=3)).run
        assert (await node.wait_for_outcome(old)).state is State.SUPERSEDED
        await pass_time(node, 5_000)
        assert (await node.wait_for_outcome(new)).state is State.EXPIRED
        assert node.disk.facts(new)[-1].cause is Cause.STALE
        await node.send("7", payload=4)
        await pass_time(node, 3_600_000 - 5_000)
        assert node.called_endpoints() == ["a/1"]  # the last run is stale, too
        last = (await node.send("7", payload=5)).run
        assert (await node.wait_for_outcome(last)).state is State.SUCCEEDED


async def test_an_urgent_flow_that_waits_for_its_rate_does_not_delay_a_flow_of_low_priority():
    async with stage("1/s\nPRIORITY 9", "\n9\nPRIORITY 0\nTO b 2\nGET\n") as node:
        for _ in range(3):
            await node.send("7")
        for _ in range(3):
            assert (await node.run("9")).state is State.SUCCEEDED
        assert node.called_endpoints() == ["a/1", "b/2", "b/2", "b/2"]
        for _ in range(2):
            await pass_time(node, 1_000)
        await until(lambda: node.node.unfinished == 0)


@pytest.mark.parametrize("order", ["", "ORDER dataflow\n"])
async def test_runs_that_other_runs_start_take_part_in_the_rate(order):
    more = f"\n9\n{order}RUN 7 payload\nRUN 7 payload\n"
    async with stage("1/s", more) as node:
        first = (await node.send("9")).run
        second = (await node.send("7")).run
        await settle()
        assert node.called_endpoints() == ["a/1"]
        assert node.queue.waiting_for_permits()["7"] in (1, 2)
        for begun in (2, 3):
            await pass_time(node, 1_000)
            await until(lambda begun=begun: node.called_endpoints() == ["a/1"] * begun)
        for run in (first, second):
            assert (await node.wait_for_outcome(run)).state is State.SUCCEEDED


async def test_a_run_that_is_offered_again_needs_no_second_turn():
    """Its offers are lost. It is offered again, although the rate is 1/h."""
    text = "7\nLIMIT 1/h\nTO a 1\nPOST payload\n"
    async with Stage(flows=flows(text), bounds=Bounds(drain_s=0.01)) as node:
        node.balancer.answer = "3"
        node.peers.answer_offer = peer(SILENT)
        await node.send("7")
        for offers in range(1, 20):
            await until(lambda offers=offers: len(node.peers.offers) >= offers)
            await pass_time(node, 60_000)


async def test_a_changed_or_removed_rate_applies_to_waiting_runs():
    async with stage("1/h") as node:
        for _ in range(4):
            await node.send("7")
        await settle()
        await node.node.reconfigure(config(flows=flows(TEXT.format("1/s")), balancer=None))
        await pass_time(node, 1_000)
        await until(lambda: node.called_endpoints() == ["a/1"] * 2)
        await node.node.reconfigure(
            config(flows=flows(TEXT.format("9").replace("LIMIT 9\n", "")), balancer=None)
        )
        await until(lambda: node.node.unfinished == 0)
        assert not node.queue.permits.rates.buckets


async def test_a_paused_node_begins_no_run_when_a_turn_is_due():
    async with stage("1/s") as node:
        for _ in range(2):
            await node.send("7")
        await settle()
        node.node.pause(True)
        await pass_time(node, 1_000)
        assert node.called_endpoints() == ["a/1"]
        node.node.pause(False)
        await until(lambda: node.node.unfinished == 0)


async def test_readiness_names_the_flow_whose_runs_wait_for_their_rate():
    async with stage("1/h") as node:
        for _ in range(3):
            await node.send("7")
        await settle()
        room = next(each for each in node.node.readiness() if each.name == "room")
        assert room.text == "0 runs in flight, 2 waiting, 2 wait for LIMIT of flow 7"


async def begin(disk: JournalContent, clock: ManualClock) -> Stage:
    """Start a node with a rate of one run per minute."""
    node = Stage(disk, clock, flows=flows(TEXT.format("1/min")), balancer=None)
    await node.node.start()
    return node


async def test_a_restart_does_not_exceed_the_rate():
    disk, clock = JournalContent(), ManualClock()
    node = await begin(disk, clock)
    await node.run("7")
    waiting = (await node.send("7")).run
    await settle()
    node.crash()
    clock.ms += 20_000
    again = await begin(disk, clock)
    await pass_time(again, 59_000)
    assert again.called_endpoints() == []  # a run may have begun just before the crash
    await pass_time(again, 1_000)
    assert (await again.wait_for_outcome(waiting)).state is State.SUCCEEDED
    await again.node.drain()


async def test_the_rate_of_a_component_spreads_the_calls_of_all_flows():
    text = (
        "1\nTO a 1\nPOST item\n  FOREACH payload\n  LIMIT 9\n\n2\nTO a 2\nGET\n\n3\nTO b 1\nGET\n"
    )
    async with Stage(keys={"a": {"rate": "10/s"}}, flows=flows(text), balancer=None) as node:
        run = (await node.send("1", payload=[1, 2, 3])).run
        other = (await node.send("2")).run
        assert (await node.run("3")).state is State.SUCCEEDED
        await settle()
        assert node.called_endpoints() == ["a/1", "b/1"]
        statuses = {each.component: each for each in (await node.node.status()).components}
        assert (statuses["a"].waiting, statuses["a"].circuit) == (3, None)
        for begun in (2, 3, 4):
            await pass_time(node, 100)
            assert len(node.called_endpoints()) == begun + 1
        for each in (run, other):
            assert (await node.wait_for_outcome(each)).state is State.SUCCEEDED


def test_a_limit_is_a_number_a_rate_or_both():
    def queueing(limit):
        return flows(TEXT.format(limit))["7"].queueing

    assert (queueing("4").limit, queueing("4").rate) == (4, None)
    assert (queueing("10/s").limit, queueing("10/s").rate) == (None, Rate(10))
    assert (queueing("4 90/min").limit, queueing("4 90/min").rate) == (4, Rate(90, "min"))
