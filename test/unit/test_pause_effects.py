"""The page that asks before a flow is paused says what will happen to which runs."""

from __future__ import annotations

from engine_stage import flows
from fractal_rm.domain.node_status import FlowStatus
from fractal_rm.domain.pause_effects import effects_of_pause, effects_of_resume

FLOWS = flows("7\nDEADLINE 5s\nSTALE 10s\nLATEST line\nTO a 1\nGET\n\n8\nRUN 7\n\n9\nRUN 7\n")


def effects(flow: str, **now: int) -> str:
    return " ".join(effects_of_pause(FLOWS[flow], FLOWS, FlowStatus(flow, **now), 1234, 100_000))


def test_a_pause_says_what_becomes_of_triggers_and_of_open_runs():
    text = effects("8", waiting=3, in_flight=1)
    assert "In the last hour, 1,234 came in. If 100,000 runs of all flows wait" in text
    assert "The run that is in flight goes on." in text
    assert "3 runs wait now, and will go on waiting." in text


def test_a_pause_of_an_idle_flow_says_nothing_of_open_runs():
    text = effects("8")
    assert "in flight" not in text
    assert "wait now" not in text


def test_a_pause_names_the_flows_whose_runs_are_not_held_back():
    assert "Flows 8 and 9 run this flow with RUN: such a run is part of its parent" in effects("7")


def test_a_pause_names_the_settings_that_end_runs_while_they_wait():
    text = effects("7")
    assert "longer than its DEADLINE, 5 s, ends as expired" in text
    assert "longer than STALE, 10 s, ends as expired" in text
    assert "only the newest is executed" in text


def test_the_end_of_a_pause_says_how_many_runs_begin():
    assert effects_of_resume("7", FlowStatus("7")) == [
        "Runs of flow 7 begin again. None waits now."
    ]
    [sentence] = effects_of_resume("7", FlowStatus("7", waiting=2))
    assert sentence.startswith("2 runs of flow 7 wait now, and begin: at once as far as")
