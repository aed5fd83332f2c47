"""The health of a node in one line, and its conditions in words."""

from __future__ import annotations

import msgspec
import pytest

from fractal_rm.domain.balancer_seen import balancer_condition
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.conditions import (
    Condition,
    Disk,
    conditions_of,
    disk_condition,
    nodes_condition,
    not_well,
    split,
)
from fractal_rm.domain.facts import Placed
from fractal_rm.domain.fault_times import FaultTimes
from fractal_rm.domain.health import Trouble, health_of
from fractal_rm.domain.node_status import ComponentStatus, NodeStatus

GB = 1_000_000_000
STATUS = NodeStatus(
    node="1", journal="up", version="1", pid=1, started_ms=1_000, now_ms=9_000, paused=False,
    draining=False, open_runs={}, in_flight=0, waiting=0, oldest_waiting_ms=None, flows=[],
    components=[], checks=[("serving", True, "serving"), ("mqtt", True, "broker:1883, MQTT 5"),
                           ("history", True, "no damage was found")],
)  # fmt: skip
NO_BROKER = [("serving", True, "serving"), ("mqtt", False, "broker:1883: connection refused")]
SOME = Trouble(runs=3, ended=100, since_ms=5_000)
MANY = Trouble(runs=30, ended=100, since_ms=5_000)
NO_NODE = not_well([
    *nodes_condition({"2": ("connection refused", 3_000)}),
    Condition("balancer", "fail", "it names node 2"),
    Condition("disk", "ok", "50 GB free"),
])  # fmt: skip
OPEN = ComponentStatus("boiler", circuit="open", since_ms=4_000, why="5 of 5 calls failed")


def status(**changes: object) -> NodeStatus:
    return msgspec.structs.replace(STATUS, **changes)


@pytest.mark.parametrize(
    ("changes", "others", "text", "since_ms"),
    [
        ({}, {}, "well", 1_000),
        ({}, {"last_trouble_ms": 7_000}, "well", 7_000),
        ({"paused": True}, {}, "paused", None),
        ({"draining": True, "checks": [("serving", False, "drained")]}, {}, "draining", None),
        ({"components": [OPEN]}, {}, "circuit open: boiler", 4_000),
        ({}, {"trouble": SOME}, "3 % of runs fail (5 min)", 5_000),
        ({"paused": True}, {"trouble": SOME}, "paused", None),
        ({"paused": True}, {"trouble": MANY}, "30 % of runs fail (5 min)", 5_000),
        ({}, {"silent": ["mqtt"], "trouble": MANY}, "no answer from the process mqtt", None),
        ({"checks": NO_BROKER, "faults_since_ms": {"mqtt": 6_000}}, {"trouble": MANY},
         "not well: broker", 6_000),
        ({}, {"trouble": SOME, "others": NO_NODE}, "not well: node 2, balancer", 3_000),
    ],
)  # fmt: skip
def test_the_worst_condition_is_named_with_its_time(changes, others, text, since_ms):
    health = health_of([status(**changes)], **others)
    assert (health.text, health.since_ms) == (text, since_ms)


def test_trouble_that_is_over_is_said_in_the_past_with_its_end():
    over = msgspec.structs.replace(MANY, last_minute_ms=60_000)
    health = health_of([STATUS], trouble=over, last_trouble_ms=70_000, now_ms=130_000)
    assert (health.tone, health.text, health.until_ms) == ("wait", "runs failed", 70_000)
    assert health.page == "failures"

    going_on = health_of([STATUS], trouble=over, last_trouble_ms=70_001, now_ms=130_000)
    assert (going_on.tone, going_on.until_ms) == ("fail", None)


def test_the_end_of_trouble_is_that_of_its_minute_if_the_newest_run_was_not_found():
    over = msgspec.structs.replace(SOME, last_minute_ms=60_000)
    assert health_of([STATUS], trouble=over, now_ms=130_000).until_ms is None
    assert health_of([STATUS], trouble=over, now_ms=180_000).until_ms == 119_999


def test_other_nodes_that_cannot_be_reached_are_conditions_with_what_to_do():
    assert nodes_condition({}) == []
    assert not_well([Condition("disk", "wait", "small")]) == []
    condition = nodes_condition({"2": ("connection refused", 7)})[0]
    assert (condition.name, condition.tone, condition.since_ms) == ("node 2", "fail", 7)
    assert condition.page == "nodes"
    assert "take it out of nodes.conf" in condition.advice


def test_a_node_of_two_processes_is_well_since_the_second_has_started():
    later = status(journal="mqtt", started_ms=3_000)
    assert health_of([STATUS, later]).since_ms == 3_000


@pytest.mark.parametrize(
    ("runs", "ended", "words"),
    [(1, 10_000, "under 1 %"), (999, 1_000, "99 %"), (7, 7, "all"), (1, 3, "33 %")],
)
def test_a_share_is_never_said_to_be_none_or_all_if_it_is_not(runs, ended, words):
    assert Trouble(runs, ended, 0).share_words == words


def test_a_check_keeps_the_time_since_which_it_is_not_well():
    times = FaultTimes()
    assert times.update(["mqtt"], 1_000) == {"mqtt": 1_000}
    assert times.update(["mqtt", "journal"], 2_000) == {"mqtt": 1_000, "journal": 2_000}
    assert times.update(["journal"], 3_000) == {"journal": 2_000}
    assert times.update(["mqtt", "journal"], 4_000) == {"mqtt": 4_000, "journal": 2_000}


def test_what_is_not_well_comes_first_and_the_rest_is_only_named():
    checks = [*NO_BROKER, ("history", True, "page 7 is damaged"), ("clock", True, "plausible")]
    shown, also_well = split(conditions_of([status(checks=checks, faults_since_ms={"mqtt": 5})]))
    assert shown == [
        Condition("broker", "fail", "broker:1883: connection refused", 5),
        Condition("history", "wait", "page 7 is damaged"),
    ]
    assert also_well == ["triggers", "clock"]


def test_a_condition_of_one_of_two_processes_names_the_process():
    api = status(journal="api", checks=[("serving", True, "serving")])
    mqtt = status(journal="mqtt", checks=NO_BROKER)
    names = [each.name for each in conditions_of([api, mqtt])]
    assert names == ["broker (mqtt)", "triggers"]


@pytest.mark.parametrize(("free", "tone"), [(50 * GB, "ok"), (GB // 2, "wait"), (GB // 10, "fail")])
def test_a_disk_on_which_the_journal_has_no_room_is_not_well(free, tone):
    condition = disk_condition(Disk(100 * GB, free), {"up": GB // 10}, GB)
    assert condition.tone == tone
    assert "journal 100 MB of at most 1,000 MB" in condition.text


# --- the balancer ---------------------------------------------------------------------------------

HERE = Placed("1", "the balancer chose this node", cause=Cause.BALANCER)
TO_2 = Placed("2", "the balancer named node 2", cause=Cause.BALANCER)
REFUSED = "node 2 could not be reached: refused"
NAMES_2 = "it names node 2, which did not take 1 run of 2 answers lately"
NOT_REACHED = Placed("1", REFUSED, cause=Cause.PEER_UNREACHABLE)
UNKNOWN = Placed("1", "the balancer named node 9, which nodes.conf does not have",
                 cause=Cause.UNKNOWN_NODE)  # fmt: skip
BROKEN = Placed("1", "the balancer failed: status 500", cause=Cause.BALANCER_FAILED)
BY_SENDER = Placed("1", "the sender placed the run here", cause=Cause.BY_SENDER)


@pytest.mark.parametrize(
    ("runs", "tone", "text"),
    [
        ([[HERE], [TO_2], [HERE]], "ok", "3 answers lately: 2 for this node, 1 for node 2"),
        ([[HERE], [TO_2, NOT_REACHED]], "fail",
         f"{NAMES_2}; each was delayed by about 40 ms: {REFUSED}"),
        ([[UNKNOWN], [HERE]], "fail",
         "1 of 2 answers lately: the balancer named node 9, which nodes.conf does not have"),
        ([[BROKEN]], "fail", "1 of 1 answer lately: status 500"),
        ([[BY_SENDER], []], "quiet", "no run that was read lately asked it"),
    ],
)  # fmt: skip
def test_the_balancer_is_judged_by_what_the_newest_runs_have_recorded(runs, tone, text):
    placements = [[(40 * n, fact) for n, fact in enumerate(run)] for run in runs]
    condition = balancer_condition(
        configured=True, placements=placements, own_id="1", within="lately"
    )
    assert (condition.tone, condition.text) == (tone, text)


def test_a_node_without_a_balancer_says_that_none_is_configured():
    assert (
        balancer_condition(configured=False, placements=[], own_id="1", within="").tone == "quiet"
    )
