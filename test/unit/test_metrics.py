"""The metrics of a node: what is counted, under which labels, and in which format."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine_stage import URL, Stage, config, flows, peer
from fractal_rm.adapters.metrics import Metrics
from fractal_rm.adapters.metrics.families import FAMILIES
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.call_errors import CallTimedOut
from fractal_rm.domain.refusals import Busy, Malformed
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Arrival, TriggerSource
from scraped import Scraped

RETRIED = """\
1
TO a 1
GET
  RETRY 2 EVERY 10ms
TO b 1
GET
  WHEN payload == 1
"""


def take_time(stage: Stage, name: str, *errors: Exception) -> None:
    """Let each call of an endpoint take 2 ms. The first calls raise ``errors``."""
    remaining = list(errors)

    async def answer(_):
        stage.clock.ms += 2
        if remaining:
            raise remaining.pop(0)
        return HttpResponse(200, b"", b"answered")

    stage.components.answers[f"{URL}/{name}"] = answer


async def test_a_run_is_counted_by_flow_state_place_and_call():
    async with Stage(balancer=None) as stage:
        scraped = Scraped(stage)
        take_time(stage, "a/1")
        take_time(stage, "b/1")
        outcome = await stage.run("1")
        assert outcome.state is State.SUCCEEDED
        assert await scraped.values("triggers_total") == {("mqtt", "accepted"): 1}
        assert await scraped.values("runs_settled_total") == {("1", "succeeded"): 1}
        assert await scraped.values("placements_total") == {("here", "no-balancer"): 1}
        calls = await scraped.values("calls_total")
        assert calls == {("a", "succeeded"): 2, ("b", "succeeded"): 1}
        assert await scraped.values("run_duration_seconds_count") == {("1",): 1}
        assert await scraped.values("run_queue_seconds_count") == {("1",): 1}


async def test_attempts_that_fail_are_counted_by_cause_and_skipped_calls_not_at_all():
    async with Stage(balancer=None, flows=flows(RETRIED)) as stage:
        take_time(stage, "a/1", CallTimedOut("too slow", sent=True))
        scraped = Scraped(stage)
        await stage.run("1")
        calls = await scraped.values("calls_total")
        assert calls[("a", "timed-out")] == 1
        assert calls[("a", "succeeded")] == 1
        assert calls[("b", "succeeded")] == 0
        assert (await scraped.values("call_retries_total"))[("a",)] == 1


async def test_durations_do_not_depend_on_the_wall_clock():
    async with Stage(balancer=None) as stage:
        scraped = Scraped(stage)
        release = stage.block_calls("slow/1")
        run = await stage.send("4")
        stage.clock.ms += 3_000
        stage.clock.jumped_ms -= 3_600_000
        release.set()
        await stage.wait_for_outcome(run.run)
        [seconds] = (await scraped.values("run_duration_seconds_sum")).values()
        assert seconds == 3


async def test_refused_triggers_and_dead_letters_are_counted_by_code():
    async with Stage() as stage:
        scraped = Scraped(stage)
        arrival = Arrival(TriggerSource.MQTT, b"{")
        with pytest.raises(Malformed) as caught:
            await stage.node.receive(arrival)
        await stage.node.set_aside(arrival, caught.value)
        stage.node.set_draining(True)
        with pytest.raises(Busy):
            await stage.send()
        triggers = await scraped.values("triggers_total")
        assert triggers == {("mqtt", "malformed"): 1, ("mqtt", "draining"): 1}
        assert await scraped.values("dead_letters_total") == {("malformed",): 1}
        assert await scraped.values("draining") == {(): 1}


async def test_a_repeated_trigger_is_counted_as_a_duplicate():
    async with Stage(balancer=None) as stage:
        scraped = Scraped(stage)
        for _ in range(2):
            await stage.run("1", id="the same")
        triggers = await scraped.values("triggers_total")
        assert triggers == {("mqtt", "accepted"): 1, ("mqtt", "duplicate"): 1}


async def test_hand_offs_are_counted_by_node_and_outcome():
    async with Stage() as stage:
        scraped = Scraped(stage)
        stage.balancer.answer = "2"
        stage.peers.answer_offer = peer("receipt")
        await stage.run("1")
        handoffs = await scraped.values("handoffs_total")
        assert handoffs == {("2", "offered"): 1, ("2", "receipt"): 1}
        assert await scraped.values("placements_total") == {("2", "balancer"): 1}
        assert await scraped.values("run_duration_seconds_count") == {("1",): 0}


async def test_only_configured_names_are_labels_and_over_200_flows_are_one():
    text = "\n".join(f"{number}\nTO a 1\nGET\n" for number in range(210))
    async with Stage(balancer=None, flows=flows(text)) as stage:
        scraped = Scraped(stage)
        for number in range(210):
            await stage.run(str(number))
        settled = await scraped.values("runs_settled_total")
        assert len(settled) == 201
        assert settled[("other", "succeeded")] == 10
        # A run of a flow that is no longer configured.
        release = stage.block_calls("a/1")
        run = await stage.send("0")
        await stage.node.reconfigure(config(balancer=None))
        release.set()
        await stage.wait_for_outcome(run.run)
        assert ("0", "succeeded") in await scraped.values("runs_settled_total")


async def test_every_line_belongs_to_a_documented_metric():
    async with Stage() as stage:
        scraped = Scraped(stage)
        await stage.run("1")
        text = await scraped.text()
    names = {family.name.removesuffix("_total") for family in FAMILIES}
    parsed = {family.name: family for family in text_string_to_metric_families(text)}
    assert set(parsed) <= names
    by_name = {family.name.removesuffix("_total"): family for family in FAMILIES}
    for name, family in parsed.items():
        assert family.type == by_name[name].kind
        assert family.documentation == by_name[name].meaning
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(by_name[name].labels)


async def test_hostile_text_in_a_label_does_not_break_the_format():
    name = 'a"b\\c\nd'
    async with Stage(balancer=None, node_id=name) as stage:
        scraped = Scraped(stage)
        [labels] = await scraped.values("build_info")
    assert name in labels


async def test_nobody_counts_before_the_first_scrape():
    async with Stage(balancer=None) as stage:
        metrics = Metrics(stage.dependencies, stage.node.status)
        assert stage.dependencies.counting.facts == ()
        await metrics.exposition()
        assert len(stage.dependencies.counting.facts) == 1


async def test_a_fault_of_the_counting_ends_the_counting_and_not_the_run(monkeypatch):
    async with Stage(balancer=None) as stage:
        scraped = Scraped(stage)
        monkeypatch.setattr("fractal_rm.adapters.metrics.counts._text", None)
        stage.set_errors("a/1", CallTimedOut("too slow", sent=True))
        outcome = await stage.run("1")
        assert outcome.state is State.FAILED
        assert "counting_ended" in stage.telemetry.events
        assert stage.dependencies.counting.facts == ()
        assert "runs_settled_total" in await scraped.text()


async def test_other_tasks_run_while_a_long_text_is_made():
    text = "\n".join(f"{number}\nTO a 1\nGET\n" for number in range(200))
    async with Stage(balancer=None, flows=flows(text)) as stage:
        scraped = Scraped(stage)
        for number in range(200):
            await stage.run(str(number))
        turns = 0

        async def count_turns():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count_turns())
        lines = (await scraped.text()).count("\n")
        counting.cancel()
        assert lines > 7_000
        assert turns >= lines / 500
