"""Real nodes: two on one machine, hand-offs, changed configurations, bad peers, stops."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import gmqtt
import pytest
from gmqtt.mqtt.constants import MQTTv311
from gmqtt.storage import PersistentStorage

import programs
from components import Components, slow
from fractal_rm.adapters.sqlite.schema import FORMAT
from fractal_rm.changes import Changes
from fractal_rm.config.control import Control, write_control
from fractal_rm.config.load import Watch
from fractal_rm.config.model import Rest
from fractal_rm.domain.state import State
from fractal_rm.engine.node import Node
from fractal_rm.engine.ports import Check
from nodes import FLOWS, NodeProcess, wait_until
from ports import free_port
from worlds import Stage, config


def outcome(node: NodeProcess, flow: str = "2", **headers):
    """Send a trigger that the balancer places, and wait for its outcome."""
    return node.trigger(flow, placed=False, Prefer="wait=30", **headers)[2]


def node_at(port: int, endpoint: str, **more):
    """A nodes.conf with node 2 at this address."""
    config = {"protocol": "http", "ip": "127.0.0.1", "port": port, "endpoint": endpoint, **more}
    return {"2": {"config": config}}


# --- two processes on one machine ----------------------------------------------------------------


def test_rm_mqtt_and_rm_api_run_at_the_same_time_on_one_node(make, tmp_path, mosquitto, components):
    api = make("both", broker=mosquitto.port).start()
    mqtt = api.beside("mqtt")
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
    """Publish one message at QoS 1 and wait for its PUBACK."""

    async def send():
        unacknowledged = PersistentStorage()
        client = gmqtt.Client("one", persistent_storage=unacknowledged)
        await client.connect("127.0.0.1", port, version=MQTTv311)
        client.publish(topic, json.dumps(message), qos=1)
        await unacknowledged.wait_empty()
        await client.disconnect()

    asyncio.run(send())


def listening(pid: int) -> list[str]:
    """The TCP sockets on which a process listens."""
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


def test_a_second_process_on_the_same_journal_is_refused(make):
    node = make().start()
    other = node.beside()
    other.edit("comm", rest__port=free_port())
    other.launch()
    assert other.process.wait(20) == 4
    assert f"is in use by process {node.process.pid}" in other.log
    assert "Traceback" not in other.log


# --- flows with ON, EVERY and CRON ---------------------------------------------------------------


TRIGGERED_FLOWS = """\
1 at a topic
ON plant/+/frame
TO component1 1
POST payload

2 again and again
EVERY 200ms
TO component1 2
GET

3 at times
CRON "* * * * *" Europe/Rome
TO component2 1
POST payload
"""


def test_flows_are_triggered_by_their_topic_and_their_schedule(make, mosquitto):
    node = make(broker=mosquitto.port, mode="up")
    (node.config / "flows.conf").write_text(TRIGGERED_FLOWS)
    node.start().wait_connected()
    publish(mosquitto.port, "plant/7/frame", {"n": 7})
    publish(mosquitto.port, "plant/frame", "for no flow")
    assert first_runs(node, "1", 1) == [("mqtt", {"n": 7})]
    scheduled = first_runs(node, "2", 3)
    assert {source for source, _ in scheduled} == {"schedule"}
    times = [datetime.fromisoformat(payload["at"][:-1]) for _, payload in scheduled]
    intervals = [later - one for one, later in pairwise(times)]
    assert all(each and not each % timedelta(milliseconds=200) for each in intervals)
    assert node.stop() == 0
    stop_earlier(node, "3 CRON", 600)
    ((source, payload), *_) = first_runs(node.start(), "3", 1)
    assert (source, payload["at"][-4:]) == ("schedule", ":00Z")
    assert node.stop() == 0


def first_runs(node: NodeProcess, flow: str, least: int) -> list[tuple[str, object]]:
    """Wait for so many runs of a flow; returns the source and the payload of each, oldest first."""
    listed = f"/v1/runs?flow={flow}&state=succeeded"

    def enough():
        found = node.get(listed)[2]["runs"]
        return len(found) >= least and found

    ids = sorted(run["id"] for run in wait_until(enough))[:least]
    firsts = [node.history.run(run_id).facts[0].fact for run_id in ids]
    return [(fact.source, json.loads(bytes(fact.payload))) for fact in firsts]


def stop_earlier(node: NodeProcess, rule: str, seconds: int) -> None:
    """Change the state of one schedule as if the node had been stopped for longer."""
    path = node.state / "schedules.json"
    kept = json.loads(path.read_text())
    (name,) = [each for each in kept if each.startswith(rule)]
    path.write_text(json.dumps({**kept, name: kept[name] - seconds * 1000}))


# --- handing off ---------------------------------------------------------------------------------


def test_a_handed_off_run_executes_once_and_its_receipt_is_kept(make, components):
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
    known = json.loads((here.state / "known-peers.json").read_text())
    assert known == [f"http://127.0.0.1:{there.rest}/startrm"]


def test_a_receiver_that_is_killed_after_its_commit_executes_a_repeated_offer_once(
    make, components
):
    there = make("there").start()
    here = make("here", balancer=components.port)
    # A proxy delivers the first offer, kills the receiver, and does not pass on the response.
    offers = []
    offered_again = threading.Event()

    def proxy(_, body):
        if body:  # an empty body asks whether it is a node of this program
            offers.append(body)
        status, _, answer = there.request("POST", "/startrm", body, Content_Type="application/json")
        if len(offers) > 1:
            offered_again.set()
        elif body:
            there.kill()
            there.start()
            offered_again.wait(60)
        return status, json.dumps(answer)

    components.answers["/proxy"] = proxy
    components.answers["/LB/id_node"] = (200, '{"id_node": "2"}')
    here.write("nodes", node_at(components.port, "proxy", peer="fractal"))
    here.start()
    answer = outcome(here, "1")
    assert (answer["state"], answer["reason"]) == ("handed-off", "node 2 has it")
    assert offered_again.is_set()
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
def test_a_run_ends_for_every_response_of_a_peer(make, components, answer, state, reason):
    node = make(balancer=components.port)
    components.answers["/LB/id_node"] = (200, '{"id_node": 2}')
    components.answers["/peer"] = answer
    port = free_port() if answer is None else components.port
    node.write("nodes", node_at(port, "peer", timeout_s=0.3 if answer == "hang" else 20))
    node.start()
    found = outcome(node)
    assert found["state"] == state
    assert reason in found["reason"]


def test_an_offer_is_the_originals_message_with_more_keys(make, components):
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


def test_an_offer_contains_the_time_left(make, components):
    node = make(balancer=components.port)
    components.answers["/LB/id_node"] = (200, '{"id_node": 2}')
    node.write("nodes", node_at(components.port, "peer"))
    node.start()
    node.trigger(placed=False, Prefer="wait=30", Fractal_Time_Left="60000")
    (body,) = [json.loads(body) for path, _, body in components.requests if path == "/peer"]
    assert 0 < body["deadline_ms"] <= 60_000


# --- balancers and components that fail ----------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((200, '{"id_node": null}'), "the balancer said here"),
        ((200, '\ufeff{"id_node": null}'), "the balancer said here"),
        ((200, '{"id_node": 99}'), "which nodes.conf does not have"),
        ((200, '{"id_node": "1"}'), "which is this one"),
        ((200, "<html>busy</html>"), "its answer is not"),
        ((200, '{"node": 1}'), "its answer is not"),
        ((200, '{"id_node": [1]}'), "its answer is not"),
        ((200, "\ufffd"), "its answer is not"),
        ((200, b"\xff\xd8\0\x1b"), "(not UTF-8 at byte 0): 4 bytes"),
        ((503, b"?", {"Content-Encoding": "br"}), "status 503: ?"),
        ((500, "{}"), "status 500"),
        ((302, '{"id_node": 2}', {"Location": "/LB/"}), "status 302, pointing to /LB/"),
        ("close", "closed without an answer"),
        ("garbage", "not HTTP/1.1"),
    ],
)
def test_a_run_executes_here_for_every_failure_of_the_balancer(balanced, answer, reason):
    node, components = balanced
    components.answers["/LB/id_node"] = answer
    found = outcome(node)
    assert found["state"] == "succeeded"
    assert reason in found["reason"]


@pytest.fixture
def balanced(node_and_balancer):
    """One node and its balancer for many tests, without the answers of the test before."""
    _, components = node_and_balancer
    components.answers.clear()
    return node_and_balancer


@pytest.fixture(scope="module")
def node_and_balancer(tmp_path_factory):
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
def test_a_bad_answer_of_a_component_fails_only_its_own_run(balanced, answer, reason):
    node, components = balanced
    components.answers["/LB/id_node"] = (200, '{"id_node": null}')
    components.answers["/endpoint2"] = answer
    found = outcome(node, "2")
    assert (found["state"], found["reason"].partition(": ")[0]) == (
        "failed", "step 1, component1 2",
    )  # fmt: skip
    assert reason in found["reason"]
    assert outcome(node, "1")["state"] == "succeeded"


def test_a_balancer_that_hangs_delays_a_run_by_its_timeout_only(make, components):
    node = make(balancer=components.port)
    node.edit("load_balancer", timeout_s=0.3)
    components.answers["/LB/id_node"] = "hang"
    found = outcome(node.start())
    assert found["state"] == "succeeded"
    assert "no answer within the time limit" in found["reason"]


def test_a_component_that_hangs_fails_only_its_own_run(make, components):
    node = make()
    node.edit("components", component1__config__timeout_s=0.3)
    (node.config / "flows.conf").write_text(FLOWS + "\n9\nTO component2 1\nGET\n")
    components.answers["/endpoint2"] = "hang"
    node.start()
    found = outcome(node, "2")
    assert found["state"] == "failed"
    assert "no answer within the time limit" in found["reason"]
    assert outcome(node, "9")["state"] == "succeeded"


def test_a_component_can_be_sent_python_text_as_by_the_original(make, components):
    node = make()
    node.edit("components", component1__config__body="python-repr")
    node.start()
    node.trigger("1", {"a": "x", "b": [True, None]}, Prefer="wait=30")
    assert components.requests[0][2] == b"{'payload': [{'a': 'x', 'b': [True, None]}]}"


# --- changed configurations ----------------------------------------------------------------------


def test_a_change_of_flows_conf_is_taken_while_the_node_runs(make):
    node = make().start()
    (node.config / "flows.conf").write_text(FLOWS + "\n9 new\nTO component1 1\nGET\n")
    wait_until(lambda: len(node.get("/v1/flows")[2]) == 3)
    assert node.trigger("9", Prefer="wait=30")[2]["state"] == "succeeded"


def test_a_broken_configuration_is_rejected_and_the_old_one_stays_in_force(make):
    node = make().start()
    (node.config / "flows.conf").write_text("1\nTO compnent1 1\nGET\n")
    wait_until(lambda: "config_rejected" in node.log)
    assert 'did you mean \\"component1\\"' in node.log or "F104" in node.log
    assert node.trigger("2", Prefer="wait=30")[2]["state"] == "succeeded"
    (node.config / "flows.conf").write_text(FLOWS)
    wait_until(lambda: "config_taken" in node.log)


def test_the_rest_port_can_be_changed_but_not_to_one_that_is_in_use(make):
    node = make().start()
    old, new = node.rest, free_port()
    node.edit("comm", rest__port=new)
    node.rest = new
    wait_until(lambda: answers(node))
    with socket.create_server(("127.0.0.1", free_port())) as occupied:
        node.edit("comm", rest__port=occupied.getsockname()[1])
        wait_until(lambda: "config_not_taken" in node.log)
    assert answers(node)
    assert old != node.rest


def test_a_broken_reference_is_rejected_and_taken_when_its_file_exists(make):
    node = make().start()
    node.edit("comm", mqtt__password="${file:sec\0ret}")
    wait_until(lambda: "config_rejected" in node.log)
    node.edit("comm", mqtt__password="${file:secret}")
    wait_until(lambda: node.log.count("config_rejected") == 2)
    (node.folder / "secret").write_text("x")  # now the reference is valid
    wait_until(lambda: "config_taken" in node.log)
    assert "Traceback" not in node.log


def test_an_endpoint_that_is_no_plain_path_is_rejected_and_rest_stays_open(make):
    node = make().start()
    node.edit("comm", rest__endpoint="/{b:foo}")
    wait_until(lambda: "C206" in node.log)
    assert answers(node)
    node.edit("comm", rest__endpoint="/run")
    wait_until(lambda: "config_taken" in node.log)
    wait_until(lambda: answers(node))


def test_a_changed_max_trigger_bytes_is_applied_to_rest_triggers(make):
    node = make()
    node.edit("comm", max_trigger_bytes=1_000)
    node.start()
    assert node.trigger("2", "x" * 5_000)[0] == 413
    node.edit("comm", max_trigger_bytes=100_000)
    wait_until(lambda: "config_taken" in node.log)
    assert node.trigger("2", "x" * 5_000)[0] == 200


def test_a_changed_state_folder_needs_a_restart(make):
    node = make().start()
    run = node.trigger("2", Prefer="wait=30")[2]["run"]
    node.edit("comm", state__path="elsewhere", rest__port=free_port())
    wait_until(lambda: "restart_needed for_the_change_of=state.path" in node.log)
    node.rest = node.read("comm")["rest"]["port"]
    wait_until(lambda: answers(node))
    assert node.get(f"/v1/runs/{run}")[0] == 200
    assert not (node.folder / "elsewhere").exists()


async def test_an_error_while_watching_for_changes_is_logged_and_watching_continues(
    tmp_path,
):
    stage = Stage()
    stage.world.config = config(folder=str(tmp_path), state_path=str(tmp_path))
    async with stage:
        changes = Changes(stage.node, stage.world, Watch(tmp_path))
        looked = asyncio.Event()
        turns = iter([RuntimeError("a fault of ours"), None])

        def look():
            fault = next(turns, None)
            if fault is not None:
                raise fault
            looked.set()

        stage.node.watch_journal = look
        watching = asyncio.create_task(changes.watch())
        await asyncio.wait_for(looked.wait(), 10)
        watching.cancel()
        assert "watch_broke" in stage.telemetry.events


async def test_a_node_stays_paused_while_its_state_folder_is_missing(tmp_path):
    stage = Stage()
    stage.world.config = config(folder=str(tmp_path), state_path=str(tmp_path / "state"))
    write_control(tmp_path / "state", Control(paused=True))
    async with stage:
        changes = Changes(stage.node, stage.world, Watch(tmp_path))
        (tmp_path / "state").rename(tmp_path / "aside")
        stage.world.journal.away = True
        await changes.take_up()
        assert "resumed" not in stage.telemetry.events
        stage.world.journal.away = False
        await changes.take_up()
        assert "resumed" in stage.telemetry.events


class RecordedWayIn:
    """A way in that records its calls in ``calls``; ``fault``: `start` raises it."""

    takes_over = False

    def __init__(self, name: str, calls: list[str], fault: Exception | None = None) -> None:
        self.name, self.calls, self.fault = name, calls, fault

    async def start(self, _before=None):
        if self.fault is not None:
            raise self.fault
        self.calls.append(f"{self.name} opened")

    async def stop(self):
        self.calls.append(f"{self.name} stopped")

    def status(self):
        return Check(self.name, ok=True, text="open")


def with_way_in(stage: Stage, faults: dict[int, Exception]) -> list[str]:
    """Give the node one way in, which fails on some ports; returns the list of its calls."""
    calls: list[str] = []

    def make(given, _):
        port = given.rest.port
        if isinstance(faults.get(port), ValueError):
            raise faults[port]
        return RecordedWayIn(str(port), calls, faults.get(port))

    stage.node = Node(stage.world, {"rest": make})
    return calls


async def test_a_way_in_that_cannot_be_made_leaves_the_old_one_open():
    stage = Stage(rest=Rest(port=1))
    calls = with_way_in(stage, {2: ValueError("a fault of ours")})
    async with stage:
        with pytest.raises(ValueError, match="a fault"):
            await stage.node.reconfigure(config(rest=Rest(port=2)))
        assert calls == ["1 opened"]
        assert stage.world.config.rest.port == 1


async def test_the_old_way_in_is_opened_again_when_the_new_one_does_not_open():
    stage = Stage(rest=Rest(port=1))
    calls = with_way_in(stage, {2: RuntimeError("a fault of ours")})
    async with stage:
        with pytest.raises(RuntimeError):
            await stage.node.reconfigure(config(rest=Rest(port=2)))
        assert calls == ["1 opened", "1 stopped", "1 opened"]
        assert stage.world.config.rest.port == 1


async def test_a_lost_way_in_fails_readiness_and_the_next_configuration_opens_it():
    stage = Stage(rest=Rest(port=1))
    faults: dict[int, Exception] = {2: RuntimeError("no")}
    calls = with_way_in(stage, faults)
    async with stage:
        faults[1] = RuntimeError("the port is in use")
        with pytest.raises(RuntimeError):
            await stage.node.reconfigure(config(rest=Rest(port=2)))
        assert [check.ok for check in stage.node.readiness() if check.name == "rest"] == [False]
        del faults[1]
        await stage.node.reconfigure(config(rest=Rest(port=1)))
        assert calls[-1] == "1 opened"


def answers(node: NodeProcess) -> bool:
    try:
        return node.get("/livez")[0] == 200
    except OSError:
        return False


def test_pause_and_resume_survive_a_restart(make):
    node = make().start()
    assert cli(node, "pause", "--all").returncode == 0
    wait_until(lambda: "paused" in checks(node)["room"])
    wait_until(lambda: " paused" in node.log)
    run = node.trigger("2")[2]["run"]
    node.stop()
    node.start()
    wait_until(lambda: "paused" in checks(node)["room"])
    assert node.history.run(run).summary.state is State.ACCEPTED
    assert cli(node, "resume").returncode == 0
    wait_until(lambda: node.history.run(run).summary.state is State.SUCCEEDED)


def test_a_node_that_starts_paused_begins_no_run(make, components):
    components.answers["/endpoint2"] = "hang"
    node = make().start()
    run = node.trigger("2")[2]["run"]
    wait_until(lambda: components.requests)
    assert cli(node, "pause", "--all").returncode == 0
    node.kill()
    node.start()
    assert checks(node)["room"] == "0 runs in flight, 1 waiting, paused"
    components.answers["/endpoint2"] = (200, "late")
    assert cli(node, "resume").returncode == 0
    wait_until(lambda: node.history.run(run).summary.state is State.SUCCEEDED)


def test_a_parked_run_is_not_released_by_an_earlier_command(make, components):
    components.answers["/endpoint2"] = "hang"
    node = make()
    node.edit("comm", recovery__max_age_s=0)
    node.start()
    run = node.trigger("2")[2]["run"]
    wait_until(lambda: components.requests)
    assert cli(node, "resume", "--parked").returncode == 0
    wait_until(lambda: "parked_released" in node.log)
    node.kill()
    node.start()
    pause_and_wait(node)
    assert node.history.run(run).summary.state is State.PARKED
    components.answers["/endpoint2"] = (200, "late")
    assert cli(node, "resume", "--parked").returncode == 0
    wait_until(lambda: node.history.run(run).summary.state is State.SUCCEEDED)


def pause_and_wait(node: NodeProcess) -> None:
    """Pause the node, and wait until it has read the command."""
    cli(node, "pause", "--all")
    wait_until(lambda: "paused" in checks(node)["room"])


def checks(node: NodeProcess) -> dict[str, str]:
    return {check["name"]: check["text"] for check in node.get("/readyz")[2]["checks"]}


def cli(node: NodeProcess, *words: str) -> subprocess.CompletedProcess[str]:
    return programs.run_text(*words, "--config", node.config)


# --- stopped -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_signal_the_node_finishes_runs_in_flight_and_exits_with_0(make, components, number):
    components.answers["/endpoint2"] = slow(0.5)
    node = make().start()
    run = node.trigger("2")[2]["run"]
    wait_until(lambda: components.requests)
    assert node.stop(number) == 0
    assert node.history.run(run).summary.state is State.SUCCEEDED
    assert "after_crash=False" in node.start().log


def test_a_second_signal_ends_the_node_at_once_and_the_run_resumes(make, components):
    components.answers["/endpoint2"] = "hang"
    node = make().start()
    run = node.trigger("2")[2]["run"]
    wait_until(lambda: components.requests)
    node.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "stopping" in node.log)

    def ended_by_signal() -> bool:
        node.process.send_signal(signal.SIGTERM)
        return node.process.poll() is not None

    wait_until(ended_by_signal)  # signals at the same moment count as one
    assert node.process.wait(10) == 130
    assert "ended_by_second_signal" in node.log
    components.answers["/endpoint2"] = (200, "late")
    node.start()
    wait_until(lambda: node.history.run(run).summary.state is State.SUCCEEDED)


def test_a_client_that_waits_for_an_outcome_gets_it_from_a_node_that_stops(make, components):
    components.answers["/endpoint2"] = slow(0.5)
    node = make().start()
    answer = []
    waiting = threading.Thread(target=lambda: answer.append(node.trigger("2", Prefer="wait=30")[2]))
    waiting.start()
    wait_until(lambda: components.requests)
    assert node.stop() == 0
    waiting.join(10)
    assert answer[0]["state"] == "succeeded"


def test_a_client_that_waits_gets_the_state_of_a_run_that_has_not_ended_when_the_node_stops(make):
    node = make().start()
    pause_and_wait(node)
    answer = []
    waiting = threading.Thread(target=lambda: answer.append(node.trigger("2", Prefer="wait=60")))
    waiting.start()
    wait_until(node.runs)
    assert node.stop() == 0
    waiting.join(10)
    status, _, said = answer[0]
    assert (status, said["state"]) == (200, "accepted")


# --- refused starts ------------------------------------------------------------------------------


def refusal(node: NodeProcess, code: int = 4) -> str:
    node.launch()
    assert node.process.wait(20) == code
    assert "Traceback" not in node.log
    return node.log


def test_all_errors_of_a_configuration_are_shown_at_once(make):
    node = make()
    node.edit("comm", rest__port="x")
    (node.config / "flows.conf").write_text("1\nGET\n")
    log = refusal(node, code=3)
    assert "error[C205]" in log
    assert "error[F106]" in log


def test_a_port_in_use_is_reported_with_the_key_to_change(make):
    node = make()
    with socket.create_server(("127.0.0.1", node.rest)):
        assert "another program listens there; stop it, or set rest.port" in refusal(node)


def test_a_node_refuses_a_journal_of_a_newer_release(make):
    node = make().start()
    node.stop()
    with sqlite3.connect(node.state / "api.journal") as db:
        db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    assert "was written by a newer release" in refusal(node)


def test_a_node_refuses_a_damaged_journal_and_names_the_run(make, components):
    components.answers["/endpoint2"] = "hang"
    node = make().start()
    run = node.trigger("2")[2]["run"]
    with closing(sqlite3.connect(node.state / "api.journal")) as db:
        wait_until(lambda: db.execute("SELECT count(*) FROM pages").fetchone() == (1,))
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


def test_an_unwritable_log_path_is_reported(make):
    node = make()
    node.edit("comm", log__path="no/such/folder/rm.log")
    assert "log.path" in refusal(node)


def test_a_log_path_that_is_a_fifo_without_a_reader_is_reported(make):
    node = make()
    os.mkfifo(node.folder / "fifo")
    node.edit("comm", log__path="fifo")
    assert "a FIFO that nobody reads" in refusal(node)


def test_the_log_is_written_to_the_configured_file(make):
    node = make()
    node.edit("comm", log__path="rm.log")
    node.launch()
    wait_until(lambda: (node.folder / "rm.log").exists()
               and " ready " in (node.folder / "rm.log").read_text())  # fmt: skip
    assert node.stop() == 0


def test_a_node_refuses_triggers_while_its_disk_is_full_and_recovers(make, tmp_path):
    state = tmp_path / "disk"
    state.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", str(state)])
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
        status, headers, problem = wait_until(lambda: refused(node, "x" * 200_000))
        assert (status, problem["type"]) == (503, "urn:fractal-rm:journal-unavailable")
        assert headers["retry-after"]
        assert node.get("/readyz")[0] == 503
        wait_until(lambda: "journal_full" in node.log)
        assert node.get("/livez")[0] == 200
        filler.unlink()
        wait_until(lambda: node.get("/readyz")[0] == 200)
        assert outcome(node)["state"] == "succeeded"
        assert node.stop() == 0
        assert node.problems() == []
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)


def refused(node: NodeProcess, payload: object = "p"):
    answer = node.trigger("2", payload)
    return answer if answer[0] != 200 else None


# --- a flow with many settings -------------------------------------------------------------------

WITH_SETTINGS = """\
1 calls with settings
DEADLINE 60s
TO component1 1
GET
  AS found
  RETRY 3 EVERY 10ms
TO component2 1
PUT JSON {"score": found.score, "line": payload}     # GET succeeds at its second try
  WHEN found.score > 0.5 and status(found) == 200
  QUERY q "a b"
DELETE
  EXPECT status(result3) in [200, 404]
TO component3 1
GET
  WHEN found.score > 1
"""


def test_the_settings_of_calls_are_applied(make, components):
    node = make("settings")
    (node.config / "flows.conf").write_text(WITH_SETTINGS)
    node.start()
    tries = iter([(503, "busy"), (200, '{"score": 0.75}')])
    components.answers["/endpoint1"] = lambda handler, _: (
        next(tries) if handler.command == "GET" else (404, "gone")
    )
    _, _, answer = node.trigger("1", payload="L7", Prefer="wait=30")
    assert answer["state"] == "succeeded"
    assert json.loads(answer["results"][0]) == {"score": 0.75}
    assert answer["results"][2:] == ["gone", None]
    paths = [path for path, _, _ in components.requests]
    assert paths == ["/endpoint1", "/endpoint1", "/endpoint1?q=a%20b", "/endpoint1"]
    assert json.loads(components.requests[2][2]) == {"score": 0.75, "line": "L7"}
    assert node.stop() == 0
