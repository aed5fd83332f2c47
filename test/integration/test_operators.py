"""Real nodes: an operator drains a node, and decides runs in doubt, by commands and by HTTP."""

from __future__ import annotations

import getpass
import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

import programs
from doubtful_peers import add_doubtful_peer, run_in_doubt
from fractal_rm.domain.state import State
from nodes import wait_until

USER = getpass.getuser()


def new_token(node, *scopes: str) -> str:
    words = [word for scope in scopes for word in ("--scope", scope)]
    return node.command("token", "new", "-".join(scopes), *words).stdout.strip()


def ask(node, method: str, path: str, body: object = None, token: str | None = None):
    """Send a request with JSON. Returns the status and the decoded body of the response."""
    content = None if body is None else json.dumps(body).encode()
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    status, _, answer = node.request(
        method, path, content, Content_Type="application/json", **headers
    )
    return status, answer


# --- the description of a node -------------------------------------------------------------------


def test_a_node_describes_itself_at_both_paths(make, components):
    components.answers["/endpoint2"] = "hang"
    node = make()
    node.edit("comm", node__id="7")
    node.start()
    description = node.describe()
    assert description["kind"] == "fractal-rm"
    assert (description["node"], description["protocol"]) == ("7", 2)
    assert (description["draining"], description["paused"]) == (False, False)
    assert (description["in_flight"], description["waiting"]) == (0, 0)
    node.trigger("2")
    wait_until(lambda: node.describe()["in_flight"] == 1)
    node.pause()
    node.trigger("2")
    at_endpoint = node.get("/startrm")[2]
    assert (at_endpoint["in_flight"], at_endpoint["waiting"]) == (1, 1)
    assert at_endpoint["paused"] is True
    assert at_endpoint.keys() == description.keys()


# --- drain ----------------------------------------------------------------------------------------


def test_a_drained_node_refuses_triggers_until_the_drain_ends_even_after_a_restart(make):
    node = make().start()
    assert "MQTT" in node.command("drain").stdout
    wait_until(lambda: node.describe()["draining"])
    status, headers, problem = node.trigger("2")
    assert (status, problem["type"]) == (503, "urn:fractal-rm:draining")
    assert int(headers["retry-after"]) >= 1
    node.stop()
    node.start()
    assert node.describe()["draining"] is True  # from the beginning
    assert node.trigger("2")[0] == 503
    assert "accepts triggers again" in node.command("drain", "--off").stdout
    wait_until(lambda: not node.describe()["draining"])
    assert node.trigger("2", Prefer="wait=30")[2]["state"] == "succeeded"


def test_a_drain_says_whether_the_node_runs_and_its_end_whether_there_was_one(make):
    node = make()
    nobody = f"No running node was found for the state folder {node.state}.\n"
    assert node.command("drain", "--off").stdout == f"{nobody}There was no drain.\n"
    text = node.command("drain").stdout
    assert text.startswith(f"{nobody}The node drains. It begins when the node starts, and a")
    assert json.loads(node.command("drain", "--json").stdout)["running"] is False
    node.start()
    assert node.command("drain").stdout.startswith("The node drains. A running node begins within")
    assert json.loads(node.command("drain", "--json").stdout)["running"] is True
    assert node.command("drain", "--off").stdout.startswith("The drain has ended.")
    assert node.command("drain", "--off").stdout == "There was no drain.\n"
    node.stop()
    assert node.command("drain", "--off").stdout == f"{nobody}There was no drain.\n"


def test_a_drain_says_how_many_runs_are_left_until_the_node_is_empty(make, components):
    components.answers["/endpoint2"] = "hang"
    node = make().start()
    node.trigger("2")
    wait_until(lambda: components.requests)
    first = node.command("drain").stdout
    assert "1 run has not ended: 1 " in first
    assert "Run `fractal-rm drain` again" in first
    assert json.loads(node.command("drain", "--json").stdout)["open_runs"]["parked"] == 0
    components.answers["/endpoint2"] = (200, "late")
    components.release.set()
    wait_until(lambda: node.runs()[0].state.final)
    assert "No run is left: the node can be stopped." in node.command("drain").stdout


def test_a_drained_node_gives_its_waiting_runs_to_another_node(make, components):
    components.answers["/endpoint2"] = "hang"
    other, node = make("other"), make("node")
    other.edit("comm", node__id="2")
    other.start()
    node.edit("comm", node__id="1", state__max_inflight_runs=1)
    node.add_peer(other, peer="fractal")
    node.start()
    begun = node.trigger("2")[2]["run"]
    wait_until(lambda: components.requests)
    waiting = [node.trigger("1")[2]["run"] for _ in range(2)]
    node.command("drain")
    wait_until(lambda: node.describe()["draining"])
    components.answers["/endpoint2"] = (200, "late")
    components.release.set()
    for run in waiting:
        wait_until(lambda run=run: node.history.run(run).summary.state is State.HANDED_OFF)
        wait_until(lambda run=run: other.history.run(run).summary.state is State.SUCCEEDED)
    wait_until(lambda: node.history.run(begun).summary.state.final)
    wait_until(lambda: "No run is left" in node.command("drain").stdout)
    assert (node.describe()["in_flight"], node.describe()["waiting"]) == (0, 0)


def test_the_first_drain_of_an_empty_node_does_not_say_that_it_can_be_stopped(make):
    node = make().start()
    assert "can be stopped" not in node.command("drain").stdout
    assert "can be stopped" in node.command("drain").stdout


def test_pause_and_drain_do_not_change_each_other(make):
    node = make().start()
    node.command("drain")
    node.command("pause", "--all")
    wait_until(lambda: node.describe()["draining"] and node.describe()["paused"])
    text = node.command("drain").stdout
    assert "none is left" not in text
    node.command("resume")
    wait_until(lambda: not node.describe()["paused"])
    assert node.describe()["draining"] is True


def test_a_drain_by_http_needs_the_scope_operate_and_persists(make):
    node = make().start()
    operate, trigger = new_token(node, "operate"), new_token(node, "trigger", "read", "payload")
    for token in (None, trigger):
        status, problem = ask(node, "PUT", "/v1/node/draining", True, token)
        assert (status, problem["type"]) == (403, "urn:fractal-rm:missing-scope")
    assert node.describe()["draining"] is False
    status, description = ask(node, "PUT", "/v1/node/draining", True, operate)
    assert (status, description["draining"]) == (200, True)
    assert node.trigger("2")[0] == 503
    node.stop()
    node.start()
    assert node.describe()["draining"] is True
    assert ask(node, "PUT", "/v1/node/draining", False, operate)[1]["draining"] is False
    assert node.trigger("2")[0] == 200


@pytest.mark.parametrize("body", [1, "true", None, {"draining": True}])
def test_a_drain_by_http_with_another_body_changes_nothing(make, body):
    node = make().start()
    operate = new_token(node, "operate")
    content = json.dumps(body).encode()
    status, _, problem = node.request(
        "PUT", "/v1/node/draining", content,
        Content_Type="application/json", Authorization=f"Bearer {operate}",
    )  # fmt: skip
    assert (status, problem["type"]) == (422, "urn:fractal-rm:wrong-shape")
    assert node.describe()["draining"] is False


# --- runs in doubt --------------------------------------------------------------------------------


@pytest.fixture
def doubtful(make, components):
    """A node whose offers to node 2 leave runs in doubt."""
    node = make(balancer=components.port)
    add_doubtful_peer(node, components)
    return node.start()


def resolve(node, run: str, *words: str):
    return node.command("runs", "resolve", run, *words)


def actors_in(node, run: str) -> list[str]:
    """The operators that the facts of a run name."""
    facts = node.history.run(run).facts
    return [timed.fact.actor for timed in facts if getattr(timed.fact, "actor", None)]


def test_a_run_that_the_other_node_has_taken_is_not_executed_here(doubtful, components):
    run = run_in_doubt(doubtful)
    result = resolve(doubtful, run, "--taken")
    assert result.returncode == 0, result.stderr
    assert f"run {run} is decided. It is now handed-off" in result.stdout
    assert doubtful.history.run(run).summary.state is State.HANDED_OFF
    assert actors_in(doubtful, run) == [USER]
    assert f"operator_decided run={run} decision=taken by={USER}" in doubtful.log
    assert components.per_key() == {}


def test_a_run_that_the_other_node_does_not_have_is_executed_here(doubtful, components):
    run = run_in_doubt(doubtful)
    result = resolve(doubtful, run[:20], "--run-here")
    assert result.returncode == 0, result.stderr
    wait_until(lambda: doubtful.history.run(run).summary.state is State.SUCCEEDED)
    assert actors_in(doubtful, run) == [USER]
    assert list(components.per_key().values()) == [1]


def test_the_same_decision_may_be_repeated_and_the_opposite_has_no_effect(doubtful):
    run = run_in_doubt(doubtful)
    assert resolve(doubtful, run, "--taken").returncode == 0
    again = resolve(doubtful, run, "--taken", "--json")
    assert (again.returncode, json.loads(again.stdout)["resolved"]) == (0, True)
    opposite = resolve(doubtful, run, "--run-here")
    assert opposite.returncode == 1
    assert "is not in doubt, so nothing was changed. It is handed-off" in opposite.stdout
    assert doubtful.history.run(run).summary.state is State.HANDED_OFF
    assert actors_in(doubtful, run) == [USER]


def test_a_decision_about_a_run_that_is_not_in_doubt_changes_nothing(make):
    node = make().start()
    run = node.trigger("2", Prefer="wait=30")[2]["run"]
    result = resolve(node, run, "--taken", "--json")
    assert result.returncode == 1
    answer = json.loads(result.stdout)
    assert (answer["run"], answer["state"], answer["resolved"]) == (run, "succeeded", False)


def test_without_a_running_node_a_decision_has_no_effect(doubtful):
    run = run_in_doubt(doubtful)
    doubtful.kill()
    result = resolve(doubtful, run, "--taken")
    assert result.returncode == 4
    assert "api.journal, and the process of this journal does not run" in result.stderr
    assert "`fractal-rm api` or rm_api.py" in result.stderr
    doubtful.start()
    wait_until(lambda: doubtful.log.count(f"offer_in_doubt run={run}") > 1)
    assert doubtful.history.run(run).summary.state is State.OFFERED


def test_only_the_process_that_has_the_run_takes_the_decision(doubtful):
    run = run_in_doubt(doubtful)
    other = doubtful.second_process("mqtt")
    other.launch()
    journal = doubtful.state / "mqtt.journal"
    wait_until(journal.exists)
    try:
        assert resolve(doubtful, run, "--taken").returncode == 0
    finally:
        other.kill()
    assert doubtful.history.run(run).summary.journal == "api"


@pytest.mark.parametrize("words", [(), ("--taken", "--run-here")])
def test_a_decision_must_be_given_exactly_once(doubtful, words):
    result = resolve(doubtful, "any", *words)
    assert result.returncode == 2
    assert "give one of --taken, --run-here, --step-done or --step-not-done" in result.stderr


def test_decisions_of_two_operators_at_the_same_time_are_applied_once(doubtful):
    run = run_in_doubt(doubtful)
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(partial(resolve, doubtful, run), ["--taken"] * 2))
    assert [result.returncode for result in results] == [0, 0]
    assert actors_in(doubtful, run) == [USER]


# --- runs in doubt, by HTTP -----------------------------------------------------------------------


def test_a_run_in_doubt_is_resolved_by_http_with_the_scope_operate(doubtful):
    run = run_in_doubt(doubtful)
    operate = new_token(doubtful, "operate")
    path = f"/v1/runs/{run}/resolve"
    status, answer = ask(doubtful, "POST", path, {"decision": "taken"}, operate)
    assert (status, answer) == (200, {"run": run, "state": "handed-off"})
    assert actors_in(doubtful, run) == ["token operate"]
    status, problem = ask(doubtful, "POST", path, {"decision": "taken"}, operate)
    assert (status, problem["type"]) == (409, "urn:fractal-rm:not-in-doubt")
    assert (problem["run"], problem["state"]) == (run, "handed-off")


def test_a_run_that_does_not_exist_cannot_be_resolved(doubtful):
    operate = new_token(doubtful, "operate")
    status, problem = ask(
        doubtful, "POST", "/v1/runs/NOSUCH/resolve", {"decision": "taken"}, operate
    )
    assert (status, problem["type"]) == (404, "urn:fractal-rm:unknown-run")


@pytest.mark.parametrize("body", [{"decision": "maybe"}, {}, [], "taken"])
def test_a_decision_by_http_that_is_not_known_has_no_effect(doubtful, body):
    run = run_in_doubt(doubtful)
    operate = new_token(doubtful, "operate")
    status, problem = ask(doubtful, "POST", f"/v1/runs/{run}/resolve", body, operate)
    assert (status, problem["type"]) == (422, "urn:fractal-rm:wrong-shape")
    assert doubtful.history.run(run).summary.state is State.OFFERED


def test_without_the_scope_operate_nobody_learns_whether_a_run_exists(doubtful):
    run = run_in_doubt(doubtful)
    tokens = [None, new_token(doubtful, "trigger"), new_token(doubtful, "read", "payload")]
    for token in tokens:
        answers = [
            ask(doubtful, "POST", path, {"decision": "taken"}, token)
            for each in (run, "NOSUCH")
            for path in (f"/v1/runs/{each}/resolve", f"//v1/runs//{each}/r%65solve/?x")
        ]
        assert {status for status, _ in answers} == {403}
        assert len({json.dumps(answer) for _, answer in answers}) == 1
    assert doubtful.history.run(run).summary.state is State.OFFERED


def test_a_decision_with_sudo_names_the_user_of_sudo(doubtful, monkeypatch):
    if os.geteuid() != 0:
        pytest.skip("only root can act for another user with sudo")
    run = run_in_doubt(doubtful)
    monkeypatch.setenv("SUDO_USER", "anna")
    result = programs.run_text("runs", "resolve", run, "--taken", "--config", doubtful.config)
    assert result.returncode == 0
    assert actors_in(doubtful, run) == [f"{USER} (sudo of anna)"]
