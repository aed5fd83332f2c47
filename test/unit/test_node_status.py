"""A node says how many runs it has, by state and by flow, and since when the oldest one waits."""

from __future__ import annotations

from engine_stage import Stage, config, flows, until

ONE_AT_A_TIME = """\
7
LIMIT 1
TO slow 1
GET
"""


async def test_the_status_of_a_node_counts_its_runs_by_state_and_by_flow():
    async with Stage(balancer=None, flows=flows(ONE_AT_A_TIME)) as stage:
        release = stage.block_calls("slow/1")
        accepted_ms = stage.clock.now_ms()
        await stage.send("7")
        await until(stage.called_endpoints)
        stage.clock.ms += 5
        await stage.send("7")
        stage.clock.ms += 5
        await stage.send("7")
        status = await stage.node.status()
        release.set()
    assert status.open_runs == {"accepted": 3}  # no step has a result yet
    assert (status.in_flight, status.waiting) == (1, 2)
    assert status.oldest_waiting_ms == accepted_ms + 5
    [flow] = status.flows
    assert (flow.flow, flow.waiting, flow.in_flight) == ("7", 2, 1)
    assert flow.waiting_for_limit == 2
    assert status.node == "1"
    assert not status.paused


async def test_a_paused_node_says_so_and_names_the_check_that_fails():
    async with Stage() as stage:
        stage.node.pause(True)
        stage.journal.full = True
        status = await stage.node.status()
        stage.journal.full = False
    assert status.paused
    assert [name for name, ok, _ in status.checks if not ok] == ["journal"]
    assert status.journal_blocked == "journal-full"
    assert status.oldest_waiting_ms is None


TWO_STEPS = """\
7
TO a 1
GET
TO slow 1
GET
"""


async def test_the_status_of_a_flow_counts_the_runs_at_each_step():
    async with Stage(balancer=None, flows=flows(TWO_STEPS)) as stage:
        release = stage.block_calls("slow/1")
        for _ in range(3):
            await stage.send("7")
        await until(lambda: stage.called_endpoints().count("slow/1") == 3)
        [flow] = (await stage.node.status()).flows
        release.set()
    assert flow.at_steps == {1: 3}


async def test_runs_of_an_older_definition_are_at_no_step_of_the_new_one():
    async with Stage(balancer=None, flows=flows(TWO_STEPS)) as stage:
        release = stage.block_calls("slow/1")
        await stage.send("7")
        await until(lambda: "slow/1" in stage.called_endpoints())
        moved = flows("8\nTO a 1\nGET\n\n" + TWO_STEPS)
        await stage.node.reconfigure(config(balancer=None, flows=moved))
        same = {each.flow: each.at_steps for each in (await stage.node.status()).flows}
        changed = flows("7\nTO slow 1\nGET\n")
        await stage.node.reconfigure(config(balancer=None, flows=changed))
        [flow] = (await stage.node.status()).flows
        release.set()
    assert same == {"8": {}, "7": {1: 1}}  # it does the same, at other lines of flows.conf
    assert (flow.in_flight, flow.at_steps) == (1, {})


async def test_a_check_that_is_not_well_says_since_when_also_if_nobody_has_asked_before():
    async with Stage() as stage:
        since_ms = stage.clock.now_ms()
        stage.journal.full = True
        stage.node.watch_journal()
        stage.clock.ms += 60_000
        stage.node.watch_journal()
        status = await stage.node.status()
        stage.journal.full = False
        stage.node.watch_journal()
        later = await stage.node.status()
    assert status.faults_since_ms == {"journal": since_ms}
    assert later.faults_since_ms == {}
