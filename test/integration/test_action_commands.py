"""Real nodes: operators act on runs by commands, on one run and on many."""

from __future__ import annotations

import getpass
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

import programs
from fractal_rm.config.control import read_control
from fractal_rm.domain.facts import Settled
from fractal_rm.domain.state import State
from mqtt_stage import other_client
from nodes import wait_until

USER = getpass.getuser()


@pytest.fixture
def paused(make):
    """A node without a web stack that is paused, and has three waiting runs."""
    node = make(mode="api")
    node.command("pause", "--all")
    node.start()
    node.waiting = [node.trigger(flow).body["run"] for flow in ("1", "2", "2")]
    return node


def state_of(node, run: str) -> State:
    return node.history.run(run).summary.state


def answered(node, word: str, *words: str) -> str:
    """The output of a command whose question is answered with ``word``."""
    done = programs.run(*words, "--config", node.config, stdin=f"{word}\n".encode())
    return done.stdout.decode() + done.stderr.decode()


def test_a_waiting_run_is_cancelled_by_the_user_of_the_command(paused):
    run = paused.waiting[0]
    done = paused.command("runs", "cancel", run[:20])
    assert (done.returncode, done.stdout) == (0, f"run {run} is cancelled\n"), done.stderr
    settled = paused.history.run(run).facts[-1].fact
    assert isinstance(settled, Settled)
    assert (settled.state, settled.actor) == (State.CANCELLED, USER)


def test_a_process_without_a_web_stack_is_reached_too(make):
    node = make(mode="mqtt")
    node.start()
    assert (node.state / "mqtt.sock").exists()
    done = node.command("runs", "cancel", "--flow", "1", "--yes")
    assert (done.returncode, done.stdout) == (1, "no run matches, so nothing was done\n")
    done = node.command("flows", "pause", "1")
    assert done.stdout.startswith("flow 1 is paused; `fractal-rm flows resume 1` ends it")
    wait_until(lambda: f"flow_paused flow=1 by={USER}" in node.log)
    node.stop()
    assert not (node.state / "mqtt.sock").exists()


def test_cancelling_twice_says_that_the_run_has_ended(paused):
    run = paused.waiting[0]
    paused.command("runs", "cancel", run)
    again = paused.command("runs", "cancel", run, "--json")
    assert again.returncode == 1
    [result] = json.loads(again.stdout)["results"]
    assert (result["run"], result["error"]) == (run, "wrong-state")
    assert "has ended as cancelled" in result["reason"]


def test_many_runs_are_counted_and_the_operator_is_asked(paused):
    words = ("runs", "cancel", "--flow", "2")
    text = answered(paused, "n", *words)
    assert "Cancel 2 runs? [y/N]" in text
    assert "nothing was done" in text
    assert {state_of(paused, run) for run in paused.waiting} == {State.ACCEPTED}
    text = answered(paused, "y", *words)
    assert "cancelled  2" in text
    assert [state_of(paused, run) for run in paused.waiting] == [
        State.ACCEPTED, State.CANCELLED, State.CANCELLED,
    ]  # fmt: skip


def test_without_an_answer_nothing_is_done(paused):
    done = paused.command("runs", "cancel", "--flow", "2")
    assert done.returncode == 1
    assert "--yes does not ask" in done.stderr
    assert {state_of(paused, run) for run in paused.waiting} == {State.ACCEPTED}


def test_programs_act_on_many_runs_with_yes_and_get_json(paused):
    done = paused.command("runs", "cancel", "--state", "accepted", "--yes", "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["total"], answer["done"]) == (0, 3, 3)
    assert answer["finished"] is True


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("runs", "cancel"), "give the ids of runs, or at least one condition"),
        (("runs", "cancel", "A", "--flow", "1"), "but not both"),
        (("runs", "cancel", "--flow", "1", "--json"), "needs --yes"),
        (("runs", "resolve", "A"), "give one of --taken, --run-here, --step-done"),
        (("runs", "resolve", "A", "--taken", "--result", "1"), "--result needs --step-done"),
        (("dead", "send", "A", "B", "--edit"), "need exactly one LETTER"),
        (("dead", "send"), "give the ids of runs, or at least one condition"),
        (("dead", "discard"), "give the ids of runs, or at least one condition"),
        (("resume", "A"), "give --parked, too"),
        (("pause",), "`pause --all` pauses the whole node, `flows pause FLOW` one flow"),
        (("flows", "try", "5", "--yes"), "--payload null starts it anyway"),
    ],
)
def test_a_command_that_is_not_complete_says_what_is_missing(make, words, text):
    node = make()
    with (node.config / "flows.conf").open("a") as flows:
        flows.write("\n5\nTO component1 1\nPOST payload.id\n")
    done = node.command(*words)
    assert done.returncode == 2
    assert text in done.stderr


def test_a_result_that_is_no_json_is_refused_before_anything_is_done(paused):
    run = paused.waiting[0]
    done = paused.command("runs", "resolve", run, "--step-done", "--result", "{")
    assert done.returncode == 2
    assert "--result is not JSON" in done.stderr


def test_without_a_running_node_the_command_says_which_one_to_start(paused):
    paused.kill()
    one = paused.command("runs", "cancel", paused.waiting[0])
    assert one.returncode == 4
    assert "api.journal" in one.stderr
    assert "start it (`fractal-rm api` or rm_api.py)" in one.stderr
    many = paused.command("runs", "cancel", "--flow", "2", "--yes")
    assert many.returncode == 4
    assert "no process of this node runs" in many.stderr
    assert "start `fractal-rm up`, or rm_mqtt.py and rm_api.py" in many.stderr
    assert {state_of(paused, run) for run in paused.waiting} == {State.ACCEPTED}


def test_a_process_acts_on_many_runs_of_the_other_process_too(make):
    """The socket that gets the request is that of rm_api.py, and rm_mqtt.py has a run, too."""
    node = make(mode="api")
    node.command("pause", "--all")
    node.start()
    other = node.second_process("mqtt").start()
    try:
        run = node.trigger("1").body["run"]
        started = start_over_socket(other, "2")
        assert {node.history.run(each).summary.journal for each in (run, started)} == {
            "api", "mqtt",
        }  # fmt: skip
        done = node.command("runs", "cancel", "--state", "accepted", "--yes")
        assert "cancelled  2" in done.stdout, done.stdout + done.stderr
        assert [state_of(node, each) for each in (run, started)] == [State.CANCELLED] * 2
        assert node.history.run(started).facts[-1].fact.actor == USER
        other.kill()
        left = node.command("runs", "discard", started)
        assert "mqtt.journal" in left.stderr
        assert "`fractal-rm mqtt` or rm_mqtt.py" in left.stderr
    finally:
        other.kill()


def test_the_http_interface_of_one_process_acts_on_a_run_of_the_other(make):
    node = make(mode="api")
    node.command("pause", "--all")
    node.start()
    token = node.command("token", "new", "op", "--scope", "operate").stdout.strip()
    other = node.second_process("mqtt").start()
    try:
        run = start_over_socket(other, "2")
        done = node.request(
            "POST", f"/v1/runs/{run}/cancel", b"{}",
            Content_Type="application/json", Authorization=f"Bearer {token}",
        )  # fmt: skip
        assert (done.status, done.body["state"]) == (200, "cancelled"), done
        assert node.history.run(run).facts[-1].fact.actor == "token op"
    finally:
        other.kill()


def test_of_two_operators_at_the_same_time_one_cancels_a_run(paused):
    run = paused.waiting[0]
    with ThreadPoolExecutor(2) as threads:
        results = list(
            threads.map(lambda _: paused.command("runs", "cancel", run, "--json"), range(2))
        )
    assert sorted(result.returncode for result in results) == [0, 1]
    facts = [timed.fact for timed in paused.history.run(run).facts]
    assert sum(isinstance(fact, Settled) for fact in facts) == 1


def test_a_node_that_is_killed_in_the_middle_is_named_and_the_command_can_be_repeated(paused):
    runs = [paused.trigger("2").body["run"] for _ in range(60)]
    words = ("runs", "cancel", "--flow", "2", "--yes", "--config", paused.config)
    with ThreadPoolExecutor(1) as threads:
        command = threads.submit(programs.run_text, *words)
        wait_until(lambda: any(state_of(paused, run) is State.CANCELLED for run in runs[:5]))
        paused.kill()
        stopped = command.result()
    assert stopped.returncode == 4
    assert "did not answer" in stopped.stderr
    assert "the command can be repeated" in stopped.stderr
    assert "not reached" in stopped.stdout
    paused.start()
    again = programs.run_text(*words)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {state_of(paused, run) for run in runs} == {State.CANCELLED}
    for run in runs:
        facts = [timed.fact for timed in paused.history.run(run).facts]
        assert sum(isinstance(fact, Settled) for fact in facts) == 1


def start_over_socket(node, flow: str) -> str:
    """Start a run through the socket of a node, and return its id."""
    import asyncio

    import msgspec

    from fractal_rm.adapters.local_socket.client import ask
    from fractal_rm.adapters.local_socket.messages import Started, StartRun

    request = StartRun(flow=flow, payload=msgspec.Raw(b"1"), request_id="r")
    path = node.state / f"{node.mode}.sock"
    return asyncio.run(ask(path, request, Started, 20)).run


# --- flows ----------------------------------------------------------------------------------------


def test_the_runs_of_a_paused_flow_wait_and_those_of_other_flows_do_not(make):
    node = make().start()
    assert node.command("flows", "pause", "2").returncode == 0
    waiting = node.trigger("2").body["run"]
    assert node.trigger("1", Prefer="wait=30").body["state"] == "succeeded"
    assert state_of(node, waiting) is State.ACCEPTED
    pause = read_control(node.state).paused_flows["2"]
    assert pause.actor == USER
    again = node.command("flows", "pause", "2")
    assert "flow 2 is already paused" in again.stdout
    assert read_control(node.state).paused_flows["2"] == pause
    node.stop()
    node.start()
    assert state_of(node, waiting) is State.ACCEPTED
    resumed = node.command("flows", "resume", "2", "--json")
    assert json.loads(resumed.stdout)["flows"] == [
        {"flow": "2", "paused": False, "repeated": False, "running": True}
    ]
    wait_until(lambda: state_of(node, waiting) is State.SUCCEEDED)
    assert "flow 2 was not paused" in node.command("flows", "resume", "2").stdout


def test_a_flow_can_be_paused_before_the_node_starts(make):
    node = make()
    assert "No node runs now" in node.command("flows", "pause", "2").stdout
    node.start()
    waiting = node.trigger("2").body["run"]
    assert node.trigger("1", Prefer="wait=30").body["state"] == "succeeded"
    assert state_of(node, waiting) is State.ACCEPTED


@pytest.mark.parametrize("is_running", [True, False])
def test_a_flow_that_does_not_exist_cannot_be_paused(make, is_running):
    node = make()
    if is_running:
        node.start()
    done = node.command("flows", "pause", "nosuch")
    assert done.returncode == 4
    assert "flows.conf has no flow nosuch" in done.stderr
    assert read_control(node.state).paused_flows == {}


# --- runs and messages in trouble -----------------------------------------------------------------


@pytest.fixture
def troubled(make, components):
    """A node with three failed runs of flow 2."""
    components.answers["/endpoint2"] = (500, "broken")
    node = make(mode="api").start()
    node.failed = [node.trigger("2", Prefer="wait=30").body["run"] for _ in range(3)]
    components.answers["/endpoint2"] = (200, "mended")
    return node


def replays_of(node, run: str) -> list[str]:
    return [each.id for each in node.history.replays_of(run)]


def test_a_failed_run_is_repeated_once_unless_again_is_given(troubled):
    run = troubled.failed[0]
    done = troubled.command("runs", "replay", run)
    assert done.returncode == 0, done.stderr
    [new_run] = replays_of(troubled, run)
    assert done.stdout == f"run {run} is repeated: the new run is {new_run}\n"
    wait_until(lambda: state_of(troubled, new_run) is State.SUCCEEDED)
    assert state_of(troubled, run) is State.FAILED
    refused = troubled.command("runs", "replay", run, "--json")
    [result] = json.loads(refused.stdout)["results"]
    assert (refused.returncode, result["error"]) == (1, "already-handled")
    assert troubled.command("runs", "replay", run, "--again").returncode == 0
    assert len(replays_of(troubled, run)) == 2


def test_many_failed_runs_are_repeated_the_oldest_first_and_each_only_once(troubled):
    words = ("runs", "replay", "--flow", "2", "--since", "1h", "--yes")
    first = troubled.command(*words)
    assert "repeated  3" in first.stdout, first.stdout + first.stderr
    new_runs = [replays_of(troubled, run) for run in troubled.failed]
    assert [len(each) for each in new_runs] == [1, 1, 1]
    assert new_runs == sorted(new_runs)
    for [new_run] in new_runs:
        wait_until(lambda new_run=new_run: state_of(troubled, new_run) is State.SUCCEEDED)
    again = troubled.command(*words)
    assert again.stdout == "no run matches, so nothing was done\n"


def test_the_question_says_which_runs_are_repeated_and_with_which_flow(troubled):
    flows = troubled.config / "flows.conf"
    flows.write_text(flows.read_text().replace("TO component1 2", "TO component1 1"))
    text = answered(troubled, "n", "runs", "replay", "--flow", "2")
    assert "flow 2, accepted 20" in text
    assert "- 3 failed (flow 2, component1): " in text
    assert "status 500" in text
    assert "Their calls are made again, with the flow as it was when each run began." in text
    assert "Repeat 3 runs? [y/N]" in text
    wait_until(lambda: "config_applied" in troubled.log)
    run = troubled.failed[0]
    done = troubled.command("runs", "replay", run)
    assert "The flow has changed since; this used the flow as it was then." in done.stdout
    again = troubled.command("runs", "replay", run)
    assert "to repeat it anyway, use --again" in again.stderr
    current = troubled.command("runs", "replay", run, "--again", "--current-flow")
    assert "has changed since" not in current.stdout


def test_failed_runs_are_discarded_with_a_note(troubled):
    done = troubled.command("runs", "discard", "--text", "500", "--note", "night shift", "--yes")
    assert "discarded  3" in done.stdout, done.stdout + done.stderr
    fact = troubled.history.run(troubled.failed[1]).facts[-1].fact
    assert (fact.actor, fact.note) == (USER, "night shift")
    assert "no run matches" in troubled.command("runs", "replay", "--flow", "2", "--yes").stdout


async def test_dead_letters_are_sent_again_edited_sent_as_they_are_and_discarded(
    mosquitto, make, monkeypatch, tmp_path
):
    node = make(mode="up", broker=mosquitto.port).start().wait_connected()
    async with other_client(mosquitto) as client:
        for payload in ("first", "second", "third"):
            client.publish(node.topic, json.dumps({"id_flow": "nosuch", "payload": payload}), qos=1)
        wait_until(lambda: len(node.runs(State.DEAD)) == 3)
    first, second, third = sorted(run.id for run in node.runs(State.DEAD))
    monkeypatch.setenv("EDITOR", "true")
    monkeypatch.setenv("VISUAL", "true")
    edited = programs.run_text("dead", "send", first, "--edit", "--config", node.config)
    assert edited.returncode == 1  # `true` changes nothing
    assert "the message was not changed, so nothing was sent" in edited.stderr
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i s/nosuch/2/ "$1"\nexit 0\n')
    editor.chmod(0o755)
    monkeypatch.setenv("EDITOR", str(editor))
    monkeypatch.setenv("VISUAL", str(editor))
    done = node.command("dead", "send", first, "--edit")
    assert done.returncode == 0, done.stderr
    [new_run] = replays_of(node, first)
    assert done.stdout == f"dead letter {first} is sent again: the new run is {new_run}\n"
    wait_until(lambda: state_of(node, new_run) is State.SUCCEEDED)
    assert node.history.run(first).summary.state is State.DEAD
    message = tmp_path / "message.json"
    message.write_text('{"id_flow": "2", "payload": 1}')
    assert node.command("dead", "send", second, "--body", str(message)).returncode == 0
    as_it_was = node.command("dead", "send", third)
    assert as_it_was.returncode == 1
    assert "nosuch" in as_it_was.stderr
    done = node.command("dead", "discard", "--since", "1h", "--yes")
    assert "discarded  1" in done.stdout, done.stdout + done.stderr
    assert "no dead letters need attention" in node.command("dead", "list").stdout


def test_only_the_named_parked_runs_are_resumed(make, components):
    components.answers["/endpoint2"] = "hang"
    node = make()
    node.edit("comm", recovery__max_age_s=0)
    node.start()
    parked = [node.trigger("2").body["run"] for _ in range(2)]
    wait_until(lambda: len(components.requests) == 2)
    node.kill()
    node.start()
    components.answers["/endpoint2"] = (200, "late")
    wait_until(lambda: {state_of(node, run) for run in parked} == {State.PARKED})
    node.command("pause", "--all")
    done = node.command("resume", "--parked", parked[0])
    assert done.stdout.startswith(f"run {parked[0]} is resumed"), done.stdout + done.stderr
    assert read_control(node.state).paused is True
    node.command("resume")
    wait_until(lambda: state_of(node, parked[0]) is State.SUCCEEDED)
    assert state_of(node, parked[1]) is State.PARKED


def test_a_run_whose_last_step_is_unknown_goes_on_after_the_step(make, components):
    components.answers["/endpoint2"] = "hang"
    node = make()
    node.edit("components", component1__config__idempotent=False)
    node.start()
    run = node.trigger("2").body["run"]
    wait_until(lambda: components.requests)
    node.kill()
    components.answers["/endpoint2"] = (200, "late")
    node.start()
    wait_until(lambda: state_of(node, run) is State.UNKNOWN)
    done = node.command("runs", "resolve", run, "--step-done", "--result", '{"a": 1}')
    assert done.returncode == 0, done.stderr
    [new_run] = replays_of(node, run)
    assert done.stdout == f"run {run} is decided: it goes on as run {new_run}\n"
    wait_until(lambda: state_of(node, new_run) is State.SUCCEEDED)
    assert len(components.per_key()) == 1
    again = node.command("runs", "resolve", run, "--step-not-done")
    assert (again.returncode, "is not decided" in again.stderr) == (1, True)
