"""Whole nodes: side by side, handing off, changed while they run, stopped, and lied to."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from brokers import free_port
from components import slow
from fractal_rm.adapters.sqlite.schema import FORMAT
from fractal_rm.domain.run import State
from nodes import FLOWS, NodeProcess, wait_until


@pytest.fixture
def make(tmp_path, components):
    """Make nodes; all of them end with the test."""
    nodes = []

    def make_node(name: str = "n", **how) -> NodeProcess:
        node = NodeProcess(tmp_path / name, **{"components": components.port, "mode": "api", **how})
        nodes.append(node)
        return node

    yield make_node
    for node in nodes:
        if node.process is not None and node.process.poll() is None:
            node.process.kill()
            node.process.wait()


def outcome(node: NodeProcess, flow: str = "2", **headers):
    """The answer to a trigger that is waited for; the balancer is asked."""
    return node.trigger(flow, placed=False, Prefer="wait=30", **headers)[2]


def node_at(port: int, endpoint: str, **more):
    """A nodes.conf with node 2 there."""
    config = {"protocol": "http", "ip": "127.0.0.1", "port": port, "endpoint": endpoint, **more}
    return {"2": {"config": config}}


# --- two on one node ---------------------------------------------------------------------------


def test_rm_mqtt_and_rm_api_run_side_by_side_on_one_node(make, tmp_path, mosquitto, components):
    api = make("both", broker=mosquitto.port).start()
    mqtt = object.__new__(NodeProcess)
    mqtt.__dict__.update(api.__dict__, mode="mqtt", process=None)
    api_log = api.folder / "node.log"
    api_log.rename(api.folder / "api.log")
    mqtt.start()
    wait_until(lambda: "mqtt_connected" in mqtt.log)
    publish(mosquitto.port, api.topic, {"id_flow": "2", "payload": 1})
    api.trigger("2", Prefer="wait=30")
    wait_until(lambda: len(api.runs(State.SUCCEEDED)) == 2)
    assert {run.journal for run in api.runs()} == {"mqtt", "api"}
    assert listening(mqtt.process.pid) == []
    assert mqtt.stop() == 0
    assert api.stop() == 0


def publish(port: int, topic: str, message: object) -> None:
    """One message, by Mosquitto's own client."""
    command = ["mosquitto_pub", "-p", str(port), "-t", topic, "-q", "1", "-m", json.dumps(message)]
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        import asyncio

        import gmqtt
        from gmqtt.mqtt.constants import MQTTv311

        async def send():
            client = gmqtt.Client("one")
            await client.connect("127.0.0.1", port, version=MQTTv311)
            client.publish(topic, json.dumps(message), qos=1)
            await client._persistent_storage.wait_empty()
            await client.disconnect()

        asyncio.run(send())


def listening(pid: int) -> list[str]:
    """The TCP sockets of a process that listen."""
    opened = [str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()]
    inodes = {name[8:-1] for name in opened if name.startswith("socket:")}
    lines = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()
    ]
    return [line[1] for line in lines if line[3] == "0A" and line[9] in inodes]


def test_the_mqtt_launcher_imports_no_web_stack():
    script = (
        "import sys, fractal_rm.wiring, fractal_rm.cli.serve, fractal_rm.adapters.mqtt\n"
        "print([m for m in ('litestar', 'uvicorn', 'starlette', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == b"[]\n"


def test_a_second_node_on_the_same_journal_is_told_so(make):
    node = make().start()
    other = object.__new__(NodeProcess)
    other.__dict__.update(node.__dict__, process=None)
    other.edit("comm", rest__port=free_port())
    other.launch()
    assert other.process.wait(20) == 4
    assert f"is in use by process {node.process.pid}" in other.log
    assert "Traceback" not in other.log


# --- handing off -------------------------------------------------------------------------------


def test_a_hand_off_runs_once_there_and_the_receipt_is_kept_here(make, components):
    there = make("there").start()
    here = make("here", balancer=components.port)
    here.knows(there)
    here.start()
    components.answers["/LB/id_node"] = (200, '{"id_node": 2}')
    answer = outcome(here, "1")
    assert (answer["state"], answer["reason"]) == ("handed-off", "node 2 has it")
    run = wait_until(lambda: there.history.run(answer["run"]))
    wait_until(lambda: there.history.run(answer["run"]).summary.state is State.SUCCEEDED)
    assert run.summary.source == "peer"
    assert set(components.per_key().values()) == {1}


def test_a_receiver_that_dies_after_its_commit_is_asked_again_and_runs_it_once(make, components):
    there = make("there").start()
    here = make("here", balancer=components.port)
    # The answer is lost: a middleman delivers the first offer, kills the receiver, says nothing.
    offers = []
    asked_again = threading.Event()

    def middleman(_, body):
        offers.append(body)
        status, _, answer = there.request("POST", "/startrm", body, Content_Type="application/json")
        if len(offers) > 1:
            asked_again.set()
        else:
            there.kill()
            there.start()
            asked_again.wait(60)
        return status, json.dumps(answer)

    components.answers["/middle"] = middleman
    components.answers["/LB/id_node"] = (200, '{"id_node": "2"}')
    here.write("nodes", node_at(components.port, "middle"))
    here.start()
    answer = outcome(here, "1")
    assert (answer["state"], answer["reason"]) == ("handed-off", "node 2 has it")
    assert asked_again.is_set()
    assert len(set(offers)) == 1
    wait_until(lambda: [run.state for run in there.runs()] == [State.SUCCEEDED])
    assert here.runs(State.SUCCEEDED) == []


@pytest.mark.parametrize(
    ("answer", "state", "reason"),
    [
        ((200, "200\n"), "handed-off", "answered as a plain peer"),
        ((500, "<html>no"), "succeeded", "node 2 answered 500: <html>no"),
        ((404, "{}"), "succeeded", "node 2 answered 404"),
        ((503, "{}"), "succeeded", "node 2 answered 503"),
        ("hang", "succeeded", "node 2 did not answer"),
        ("close", "succeeded", "node 2 did not answer"),
        ("garbage", "succeeded", "node 2 did not answer"),
        (None, "succeeded", "node 2 could not be reached"),
    ],
)
def test_whatever_a_peer_does_the_run_ends(make, components, answer, state, reason):
    node = make(balancer=components.port)
    components.answers["/LB/id_node"] = (200, '{"id_node": 2}')
    components.answers["/peer"] = answer
    port = free_port() if answer is None else components.port
    node.write("nodes", node_at(port, "peer", timeout_s=0.3 if answer == "hang" else 20))
    node.start()
    found = outcome(node)
    assert found["state"] == state
    assert reason in found["reason"]


def test_the_offer_is_the_original_s_message_with_keys_that_it_ignores(make, components):
    node = make(balancer=components.port)
    node.edit("comm", node__id="7")
    components.answers["/LB/id_node"] = (200, '{"id_node": 2}')
    node.write("nodes", node_at(components.port, "peer"))
    node.start()
    run = node.trigger("1", {"a": 1}, placed=False, Prefer="wait=30")[2]["run"]
    (body,) = [json.loads(body) for path, _, body in components.requests if path == "/peer"]
    assert body == {
        "payload": {"a": 1}, "id_flow": "1", "is_load_balancing": True,
        "run": run, "epoch": 1, "sender": "7",
    }  # fmt: skip


# --- lied to -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((200, '{"id_node": null}'), "the balancer said here"),
        ((200, '{"id_node": 99}'), "which nodes.conf does not have"),
        ((200, '{"id_node": "1"}'), "which is this one"),
        ((200, "<html>busy</html>"), "its answer is not"),
        ((200, '{"node": 1}'), "its answer is not"),
        ((200, '{"id_node": [1]}'), "its answer is not"),
        ((200, "\ufffd"), "its answer is not"),
        ((500, "{}"), "status 500"),
        ("close", "closed without an answer"),
        ("garbage", "not HTTP/1.1"),
    ],
)
def test_whatever_the_balancer_does_the_run_goes_on_here(balanced, answer, reason):
    node, components = balanced
    components.answers["/LB/id_node"] = answer
    found = outcome(node)
    assert found["state"] == "succeeded"
    assert reason in found["reason"]


@pytest.fixture
def balanced(node_and_balancer):
    """One node and its balancer for many answers; none is left from the test before."""
    _, components = node_and_balancer
    components.answers.clear()
    return node_and_balancer


@pytest.fixture(scope="module")
def node_and_balancer(tmp_path_factory):
    from components import Components

    components = Components()
    folder = tmp_path_factory.mktemp("balanced")
    node = NodeProcess(folder / "n", components=components.port, balancer=components.port,
                       mode="api")  # fmt: skip
    node.edit("comm", node__id="1")
    node.start()
    yield node, components
    components.end()
    assert node.stop() == 0
    assert "Traceback" not in node.log


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((500, "out of paper"), "status 500: out of paper"),
        ((404, ""), "status 404"),
        ("close", "closed without an answer"),
        ("garbage", "not HTTP/1.1"),
    ],
)
def test_whatever_a_component_does_it_costs_its_own_run_only(balanced, answer, reason):
    node, components = balanced
    components.answers["/LB/id_node"] = (200, '{"id_node": null}')
    components.answers["/endpoint2"] = answer
    found = outcome(node, "2")
    assert (found["state"], found["reason"].partition(": ")[0]) == (
        "failed", "step 1, component1 2",
    )  # fmt: skip
    assert reason in found["reason"]
    assert outcome(node, "1")["state"] == "succeeded"


def test_a_balancer_that_hangs_is_not_waited_for(make, components):
    node = make(balancer=components.port)
    node.edit("load_balancer", timeout_s=0.3)
    components.answers["/LB/id_node"] = "hang"
    found = outcome(node.start())
    assert found["state"] == "succeeded"
    assert "no answer within the time limit" in found["reason"]


def test_a_component_that_hangs_costs_its_own_run_only(make, components):
    node = make()
    node.edit("components", component1__config__timeout_s=0.3)
    (node.config / "flows.conf").write_text(FLOWS + "\n9\nTO component2 1\nGET\n")
    components.answers["/endpoint2"] = "hang"
    node.start()
    found = outcome(node, "2")
    assert found["state"] == "failed"
    assert "no answer within the time limit" in found["reason"]
    assert outcome(node, "9")["state"] == "succeeded"


def test_the_python_text_of_the_original_can_be_asked_for(make, components):
    node = make()
    node.edit("components", component1__config__body="python-repr")
    node.start()
    node.trigger("1", {"a": "x", "b": [True, None]}, Prefer="wait=30")
    assert components.requests[0][2] == b"{'payload': [{'a': 'x', 'b': [True, None]}]}"


# --- changed while it runs ---------------------------------------------------------------------


def test_a_change_on_the_disk_is_taken_within_a_second(make):
    node = make().start()
    began = time.monotonic()
    (node.config / "flows.conf").write_text(FLOWS + "\n9 new\nTO component1 1\nGET\n")
    wait_until(lambda: len(node.get("/v1/flows")[2]) == 3)
    assert time.monotonic() - began < 5  # it is half a second here; a slow machine is no error
    assert node.trigger("9", Prefer="wait=30")[2]["state"] == "succeeded"


def test_a_broken_change_leaves_the_running_one_in_place_and_says_so(make):
    node = make().start()
    (node.config / "flows.conf").write_text("1\nTO compnent1 1\nGET\n")
    wait_until(lambda: "config_rejected" in node.log)
    assert 'did you mean \\"component1\\"' in node.log or "F104" in node.log
    assert node.trigger("2", Prefer="wait=30")[2]["state"] == "succeeded"
    (node.config / "flows.conf").write_text(FLOWS)
    wait_until(lambda: "config_taken" in node.log)


def test_the_rest_address_can_be_changed_and_a_taken_one_is_refused(make):
    node = make().start()
    old, new = node.rest, free_port()
    node.edit("comm", rest__port=new)
    node.rest = new
    wait_until(lambda: answers(node))
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        node.edit("comm", rest__port=occupied.getsockname()[1])
        wait_until(lambda: "config_not_taken" in node.log)
    assert answers(node)
    assert old != node.rest


def answers(node: NodeProcess) -> bool:
    try:
        return node.get("/livez")[0] == 200
    except OSError:
        return False


def test_pause_and_resume_survive_a_restart(make):
    node = make().start()
    assert cli(node, "pause", "--all").returncode == 0
    wait_until(lambda: "paused" in checks(node)["room"])
    run = node.trigger("2")[2]["run"]
    node.stop()
    node.start()
    wait_until(lambda: "paused" in checks(node)["room"])
    assert node.history.run(run).summary.state is State.ACCEPTED
    assert cli(node, "resume").returncode == 0
    wait_until(lambda: node.history.run(run).summary.state is State.SUCCEEDED)


def checks(node: NodeProcess) -> dict[str, str]:
    return {check["name"]: check["text"] for check in node.get("/readyz")[2]["checks"]}


def cli(node: NodeProcess, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fractal_rm.cli.main", *words, "--config", str(node.config)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# --- stopped -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_what_is_in_flight_and_exits_well(make, components, number):
    components.answers["/endpoint2"] = slow(0.5)
    node = make().start()
    run = node.trigger("2")[2]["run"]
    wait_until(lambda: components.requests)
    assert node.stop(number) == 0
    assert node.history.run(run).summary.state is State.SUCCEEDED
    assert "after_crash=False" in node.start().log


def test_a_second_signal_ends_it_at_once_and_loses_nothing(make, components):
    components.answers["/endpoint2"] = "hang"
    node = make().start()
    run = node.trigger("2")[2]["run"]
    wait_until(lambda: components.requests)
    node.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "stopping" in node.log)
    node.process.send_signal(signal.SIGTERM)
    assert node.process.wait(10) == 130
    components.answers["/endpoint2"] = (200, "late")
    node.start()
    wait_until(lambda: node.history.run(run).summary.state is State.SUCCEEDED)


def test_who_waits_for_an_outcome_gets_it_from_a_node_that_stops(make, components):
    components.answers["/endpoint2"] = slow(0.5)
    node = make().start()
    answer = []
    waiting = threading.Thread(target=lambda: answer.append(node.trigger("2", Prefer="wait=30")[2]))
    waiting.start()
    wait_until(lambda: components.requests)
    assert node.stop() == 0
    waiting.join(10)
    assert answer[0]["state"] == "succeeded"


# --- what it refuses to start with -------------------------------------------------------------


def refusal(node: NodeProcess, code: int = 4) -> str:
    node.launch()
    assert node.process.wait(20) == code
    assert "Traceback" not in node.log
    return node.log


def test_a_broken_configuration_is_shown_whole(make):
    node = make()
    node.edit("comm", rest__port="x")
    (node.config / "flows.conf").write_text("1\nGET\n")
    log = refusal(node, code=3)
    assert "error[C205]" in log
    assert "error[F106]" in log


def test_a_port_that_is_taken_is_named_with_the_cure(make):
    node = make()
    with socket.create_server(("127.0.0.1", node.rest)):
        assert "another program listens there; stop it, or set rest.port" in refusal(node)


def test_a_newer_journal_is_left_alone(make):
    node = make().start()
    node.stop()
    with sqlite3.connect(node.state / "api.journal") as db:
        db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    assert "was written by a newer release" in refusal(node)


def test_a_damaged_journal_is_left_alone_and_named(make, components):
    components.answers["/endpoint2"] = "hang"
    node = make().start()
    run = node.trigger("2")[2]["run"]
    node.kill()
    with sqlite3.connect(node.state / "api.journal") as db:
        db.execute(
            "UPDATE pages SET body = CAST(replace(CAST(body AS TEXT), 'rest', 'mqtt') AS BLOB)"
        )
    log = refusal(node)
    assert f"the checksum of page 1 of run {run} does not hold" in log
    assert "fractal-rm journal check" in log
    checked = cli(node, "journal", "check")
    assert checked.returncode == 1
    assert "DAMAGED" in checked.stdout


def test_a_log_path_that_cannot_be_written_is_named(make):
    node = make()
    node.edit("comm", log__path="no/such/folder/rm.log")
    assert "log.path" in refusal(node)


def test_the_log_goes_where_the_configuration_says(make):
    node = make()
    node.edit("comm", log__path="rm.log")
    node.launch()
    wait_until(lambda: (node.folder / "rm.log").exists()
               and " ready " in (node.folder / "rm.log").read_text())  # fmt: skip
    assert node.stop() == 0


def test_a_full_disk_under_a_whole_node_is_refused_and_survived(make, tmp_path):
    state = tmp_path / "disk"
    state.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(state)])
    if mounted.returncode != 0:
        pytest.skip("only root may mount a small disk")
    try:
        node = make()
        node.edit("comm", state__path=str(state))
        node.state = state
        node.start()
        assert outcome(node)["state"] == "succeeded"
        filler = state / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(b"\0" * 4096):
                    pass
            except OSError:
                pass
        status, headers, problem = wait_until(lambda: refused(node))
        assert (status, problem["type"]) == (503, "urn:fractal-rm:journal-unavailable")
        assert headers["retry-after"]
        assert node.get("/readyz")[0] == 503
        assert node.get("/livez")[0] == 200
        filler.unlink()
        wait_until(lambda: node.get("/readyz")[0] == 200)
        assert outcome(node)["state"] == "succeeded"
        assert node.stop() == 0
        assert node.problems() == []
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)


def refused(node: NodeProcess):
    answer = node.trigger("2")
    return answer if answer[0] != 200 else None
