"""Waiting runs under LIMIT, PRIORITY, STALE and LATEST, with in-memory adapters."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec
import pytest

from engine_stage import URL, ManualClock, Stage, config, until
from fractal_rm.adapters.memory.journal import JournalContent
from fractal_rm.domain.admission import latest_key
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.flow import QueueSettings
from fractal_rm.domain.handoff.messages import NoAnswer
from fractal_rm.domain.state import State

HOUR_MS = 3_600_000


def flows_with(**queueing_of: QueueSettings) -> dict:
    """The flows of `engine_stage` with other queue settings: ``_4=QueueSettings(…)`` for flow 4."""
    flows = dict(config().flows)
    for name, queueing in queueing_of.items():
        flow_id = name.lstrip("_")
        flows[flow_id] = msgspec.structs.replace(flows[flow_id], queueing=queueing)
    return flows


def states(stage: Stage, *runs) -> list[State]:
    return [stage.state(accepted.run) for accepted in runs]


# --- LIMIT ---------------------------------------------------------------------------------------


async def test_the_runs_in_flight_of_a_flow_do_not_exceed_its_limit():
    async with Stage(flows=flows_with(_4=QueueSettings(limit=2))) as stage:
        concurrent = []
        in_flight_calls = 0

        async def answer(_):
            nonlocal in_flight_calls
            in_flight_calls += 1
            concurrent.append(in_flight_calls)
            await asyncio.sleep(0)
            in_flight_calls -= 1
            return HttpResponse(200, b"", b"done")

        stage.components.answers[f"{URL}/slow/1"] = answer
        stage.node.pause(True)
        for _ in range(20):
            await stage.send("4")
        stage.node.pause(False)
        await until(lambda: stage.node.unfinished == 0)
        assert max(concurrent) == 2
        assert len(concurrent) == 20


async def test_a_flow_at_its_limit_does_not_delay_other_flows():
    async with Stage(flows=flows_with(_4=QueueSettings(limit=1))) as stage:
        release = stage.block_calls("slow/1")
        limited = [await stage.send("4") for _ in range(5)]
        assert (await stage.run("2")).state is State.SUCCEEDED
        release.set()
        await until(lambda: set(states(stage, *limited)) == {State.SUCCEEDED})


async def test_after_a_restart_a_run_that_had_begun_has_its_permit_and_resumes_first():
    disk, flows = JournalContent(), flows_with(_4=QueueSettings(limit=1))
    stage = Stage(disk, flows=flows)
    await stage.node.start()
    stage.block_calls("slow/1")
    begun_run, waiting_run = [(await stage.send("4", payload=n)).run for n in range(2)]
    await until(lambda: stage.called_endpoints() == ["slow/1"])
    await until(lambda: "Placed" in stage.facts(begun_run))
    stage.crash()
    async with Stage(disk, flows=flows) as restarted:
        release = restarted.block_calls("slow/1")
        await until(lambda: restarted.called_endpoints() == ["slow/1"])
        assert restarted.components.requests[0].headers["idempotency-key"] == f"{begun_run}:1"
        assert "Placed" not in restarted.facts(waiting_run)
        release.set()
        await until(lambda: restarted.state(waiting_run) is State.SUCCEEDED)


# --- PRIORITY ------------------------------------------------------------------------------------


async def test_waiting_runs_of_higher_priority_begin_first():
    flows = flows_with(_2=QueueSettings(priority=0), _4=QueueSettings(priority=9))
    async with Stage(flows=flows) as stage:
        stage.set_answer("slow/1", "answered")
        stage.node.pause(True)
        low = [await stage.send("2") for _ in range(3)]
        high = [await stage.send("4") for _ in range(3)]
        stage.node.pause(False)
        await until(lambda: stage.node.unfinished == 0)
        # A fair turn may let one run of low priority begin before the runs of high priority.
        assert stage.called_endpoints()[-2:] == ["b/2", "b/2"]
        assert set(states(stage, *low, *high)) == {State.SUCCEEDED}


# --- STALE ---------------------------------------------------------------------------------------


async def test_a_stale_run_expires_and_its_outcome_is_reported():
    clock = ManualClock()
    async with Stage(
        clock=clock, flows=flows_with(_4=QueueSettings(limit=1, stale_ms=60_000))
    ) as stage:
        release = stage.block_calls("slow/1")
        first, late = [await stage.send("4") for _ in range(2)]
        waiting = asyncio.create_task(stage.node.outcome(late.run, 10))
        await until(lambda: stage.called_endpoints() == ["slow/1"])
        clock.ms += 60_000
        release.set()
        outcome = await waiting
        assert outcome.state is State.EXPIRED
        assert outcome.reason == "the run waited for more than 60 s to begin"
        assert (await stage.wait_for_outcome(first.run)).state is State.SUCCEEDED
        assert stage.called_endpoints() == ["slow/1"]
        assert stage.facts(late.run) == ["Accepted", "Settled"]


async def test_a_stale_run_expires_without_a_free_slot():
    flows = flows_with(_4=QueueSettings(limit=1, stale_ms=1))
    async with Stage(flows=flows) as stage:
        release = stage.block_calls("slow/1")
        await stage.send("4")
        stale = await stage.send("4")
        assert (await stage.wait_for_outcome(stale.run)).state is State.EXPIRED
        load = stage.load
        assert (load.waiting, load.in_flight) == (0, 1)
        release.set()


async def test_a_stale_run_expires_while_the_node_is_paused():
    async with Stage(flows=flows_with(_2=QueueSettings(stale_ms=1))) as stage:
        stage.node.pause(True)
        accepted = await stage.send("2")
        assert (await stage.wait_for_outcome(accepted.run)).state is State.EXPIRED


async def test_a_run_that_has_begun_is_never_stale():
    clock = ManualClock()
    async with Stage(clock=clock, flows=flows_with(_4=QueueSettings(stale_ms=1_000))) as stage:
        release = stage.block_calls("slow/1")
        accepted = await stage.send("4")
        await until(lambda: stage.called_endpoints() == ["slow/1"])
        clock.ms += HOUR_MS
        release.set()
        assert (await stage.wait_for_outcome(accepted.run)).state is State.SUCCEEDED


@pytest.mark.parametrize("down_ms", [60_000, 10 * HOUR_MS])
async def test_a_run_that_became_stale_while_the_node_was_down_expires(down_ms):
    """A stale run is not parked, even if it is very old."""
    disk, clock = JournalContent(), ManualClock()
    flows = flows_with(_2=QueueSettings(stale_ms=60_000))
    stage = Stage(disk, clock, flows=flows)
    await stage.node.start()
    stage.node.pause(True)
    run = (await stage.send("2")).run
    stage.crash()
    clock.ms += down_ms
    async with Stage(disk, clock, flows=flows) as restarted:
        await until(lambda: restarted.state(run) is State.EXPIRED)
        assert restarted.called_endpoints() == []
        assert restarted.node.unfinished == 0


async def test_setting_the_clock_back_makes_no_run_stale():
    disk, clock = JournalContent(), ManualClock()
    flows = flows_with(_2=QueueSettings(stale_ms=60_000))
    stage = Stage(disk, clock, flows=flows)
    await stage.node.start()
    stage.node.pause(True)
    run = (await stage.send("2")).run
    stage.crash()
    clock.ms -= HOUR_MS // 6
    async with Stage(disk, clock, flows=flows) as restarted:
        await until(lambda: restarted.state(run) is State.SUCCEEDED)


# --- LATEST --------------------------------------------------------------------------------------


async def test_only_the_newest_of_the_waiting_runs_with_the_same_label_begins():
    async with Stage(flows=flows_with(_4=QueueSettings(limit=1, latest="door"))) as stage:
        release = stage.block_calls("slow/1")
        first = await stage.send("4", payload={"door": 1, "open": 0})
        await until(lambda: stage.called_endpoints() == ["slow/1"])
        older, other, newest = [
            await stage.send("4", payload={"door": door, "open": n})
            for n, door in enumerate((1, 2, 1.0))
        ]
        outcome = await stage.wait_for_outcome(older.run)
        assert outcome.state is State.SUPERSEDED
        assert outcome.reason == f"the newer run {newest.run} replaces this run (LATEST)"
        release.set()
        await until(lambda: stage.node.unfinished == 0)
        assert set(states(stage, first, other, newest)) == {State.SUCCEEDED}
        keys = [request.headers["idempotency-key"] for request in stage.components.requests]
        # The newest run has the queue position of the run that it replaced.
        assert keys == [f"{accepted.run}:1" for accepted in (first, newest, other)]


async def test_the_outcome_of_a_superseded_run_is_reported_when_it_is_durable():
    async with Stage(flows=flows_with(_4=QueueSettings(limit=1, latest="door"))) as stage:
        release = stage.block_calls("slow/1")
        await stage.send("4", payload={"door": 1})
        await until(lambda: stage.called_endpoints() == ["slow/1"])
        older = await stage.send("4", payload={"door": 1})
        waiting = asyncio.create_task(stage.node.outcome(older.run, 10))
        await asyncio.sleep(0)
        await stage.send("4", payload={"door": 1})
        assert (await waiting).state is State.SUPERSEDED
        assert stage.facts(older.run) == ["Accepted", "Settled"]
        release.set()


async def test_many_runs_with_the_same_label_use_one_position():
    async with Stage(flows=flows_with(_4=QueueSettings(limit=1, latest="'all'"))) as stage:
        release = stage.block_calls("slow/1")
        await stage.send("4")
        await until(lambda: stage.called_endpoints() == ["slow/1"])
        accepted_triggers = [await stage.send("4", payload=n) for n in range(100)]
        load = stage.load
        assert load.waiting == 1
        release.set()
        await until(lambda: stage.node.unfinished == 0)
        assert Counter(states(stage, *accepted_triggers)) == {
            State.SUPERSEDED: 99,
            State.SUCCEEDED: 1,
        }
        assert stage.state(accepted_triggers[-1].run) is State.SUCCEEDED
        assert (load.waiting, load.payload_bytes) == (0, 0)
        assert len(stage.ended_runs.settled) == 101


@pytest.mark.parametrize("released_last", [True, False])
async def test_after_a_restart_a_newer_run_supersedes_a_parked_run_that_is_released_before_or_later(
    released_last,
):
    disk, clock = JournalContent(), ManualClock()
    flows = flows_with(_2=QueueSettings(latest="door"))
    stage = Stage(disk, clock, flows=flows)
    await stage.node.start()
    stage.node.pause(True)
    older = (await stage.send("2", payload={"door": 1})).run
    stage.crash()
    clock.ms += 2 * HOUR_MS
    restarted = Stage(disk, clock, flows=flows)
    restarted.node.pause(True)
    async with restarted:
        await until(lambda: restarted.state(older) is State.PARKED)
        if not released_last:
            restarted.node.release_parked()
        newer = (await restarted.send("2", payload={"door": 1})).run
        if released_last:
            restarted.node.release_parked()
        await until(lambda: restarted.state(older) is State.SUPERSEDED)
        restarted.node.pause(False)
        await until(lambda: restarted.state(newer) is State.SUCCEEDED)


async def test_a_run_that_a_peer_may_have_is_not_superseded_and_does_not_become_stale(monkeypatch):
    monkeypatch.setattr("fractal_rm.domain.handoff.sender.pause_s", lambda *_: 0.001)
    clock = ManualClock()
    flows = flows_with(_2=QueueSettings(limit=1, stale_ms=1_000, latest="'all'"))
    async with Stage(clock=clock, flows=flows) as stage:
        stage.balancer.answer = "3"

        async def no_answer(*_):
            return NoAnswer("no answer within the time limit", sent=True)

        stage.peers.answer_offer = no_answer
        offered = (await stage.send("2")).run
        await until(lambda: len(stage.peers.offers) > 4)
        stage.balancer.answer = None
        clock.ms += HOUR_MS
        assert (await stage.run("2")).state is State.SUCCEEDED
        assert stage.state(offered) is State.OFFERED


def label(latest: str, payload: object) -> str | None:
    return latest_key("1", latest, msgspec.Raw(msgspec.json.encode(payload)))


def test_a_payload_without_the_value_that_latest_selects_has_no_label():
    assert label("door", {}) is None
    assert label("door", "no object") is None
    assert label("abs(@)", "no number") is None


def test_equal_json_values_have_the_same_label():
    assert label("@", {"a": 1, "b": [2.0]}) == label("@", {"b": [2], "a": 1.0})
    assert label("@", True) != label("@", 1)
    assert label("@", "1") != label("@", 1)
