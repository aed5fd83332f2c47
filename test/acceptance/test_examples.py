"""Each flow of the examples runs on a real node, with simulators of its components."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from fractal_rm.config.compile import FILES
from fractal_rm.config.load import load
from nodes import WITHIN_S, NodeProcess, wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ["metrics", "orchestrator", "picture"]
# The simulator of each component in components.conf.
SIMULATOR_OF = {
    "glances": "glances",
    "recorder": "recorder",
    "recognition": "image_recognition",
    "models": "model_server",
    "orchestrator": "orchestrator",
}


class Simulators:
    """Starts simulators of components, with the command in the README of an example."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, name: str) -> int:
        """Start a simulator on a free port. Returns the port."""
        log = self._folder / f"{name}.log"
        with log.open("wb") as out:
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, str(EXAMPLES / "simulators" / f"{name}.py"), "0"],
                    stdout=out, stderr=out,
                )
            )  # fmt: skip
        return int(wait_until(lambda: re.search(r"127\.0\.0\.1:(\d+)", log.read_text()))[1])

    def stop(self) -> None:
        """Stop all simulators."""
        for process in self._processes:
            process.kill()
            process.wait()


@pytest.fixture
def simulators(tmp_path):
    """An object that starts simulators. They are stopped at the end of the test."""
    simulators = Simulators(tmp_path)
    yield simulators
    simulators.stop()


@pytest.fixture
def launch(tmp_path, simulators):
    """Return a function that starts a node and simulators with the files of an example.

    All ports are free ports. The function returns the node and the ports of the simulators, by
    component.
    """
    started: list[NodeProcess] = []

    def launch_example(name: str) -> tuple[NodeProcess, dict[str, int]]:
        node = NodeProcess(tmp_path / "node", components=0, mode="api")
        port, ports = node.rest, {}
        for file in FILES:
            shutil.copy(EXAMPLES / name / "config_files" / file, node.config / file)
        # The files contain paths that are relative to the folder of the example.
        shutil.copytree(EXAMPLES / "simulators" / "certificates",
                        tmp_path / "simulators" / "certificates")  # fmt: skip
        node.edit("comm", rest__port=port)
        for component in node.read("components"):
            ports[component] = simulators.start(SIMULATOR_OF[component])
            node.edit("components", **{f"{component}__config__port": ports[component]})
        started.append(node)
        return node.start(), ports

    yield launch_example
    for node in started:
        node.stop()


def trigger_of(name: str) -> bytes:
    """Return the body of the trigger that the README of the example sends."""
    return (EXAMPLES / name / "trigger.json").read_bytes()


def send(node: NodeProcess, body: bytes):
    """Send a trigger. Returns the outcome of its run: state, reason and results."""
    wait = {"Content_Type": "application/json", "Prefer": f"wait={WITHIN_S}"}
    status, _, outcome = node.request("POST", "/startrm", body, **wait)
    assert status == 200, outcome
    return outcome


@pytest.mark.parametrize("name", NAMES)
def test_the_configuration_of_an_example_has_no_findings(name):
    folder = EXAMPLES / name / "config_files"
    assert [finding.render() for finding in load(folder, {}).warnings] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_readme_of_an_example_names_every_file_that_a_reader_needs(name):
    text = (EXAMPLES / name / "README.md").read_text()
    assert f"fractal-rm api --config examples/{name}/config_files" in text
    assert f"@examples/{name}/trigger.json" in text
    for component in json.loads((EXAMPLES / name / "config_files/components.conf").read_text()):
        assert f"python examples/simulators/{SIMULATOR_OF[component]}.py" in text
    flow = (EXAMPLES / name / "config_files" / "flows.conf").read_text()
    assert flow in text


def test_metrics_from_three_responses_are_combined_and_recorded(launch):
    node, ports = launch("metrics")
    outcome = send(node, trigger_of("metrics"))
    assert outcome["state"] == "succeeded"
    with urllib.request.urlopen(f"http://127.0.0.1:{ports['recorder']}/records") as reply:
        (record,) = json.load(reply)
    assert record["machine"] == "press 3"
    assert all(isinstance(record[key], (int, float)) for key in ("cpu", "memory", "load"))


def test_a_prediction_for_a_picture_is_made_over_https_with_a_private_ca(launch):
    node, _ = launch("picture")
    outcome = send(node, trigger_of("picture"))
    assert outcome["state"] == "succeeded"
    recognized, defects = map(json.loads, outcome["results"])
    assert recognized["label"] == "part"
    assert defects["model"] == "defects"
    assert 0 <= defects["prediction"] <= 1


def test_a_large_picture_without_a_part_is_accepted_and_no_model_is_called(launch):
    node, _ = launch("picture")
    picture_without_part = {"img_byte": [20] * 1_000_000}
    trigger = {"id_flow": 1, "is_load_balancing": False, "payload": picture_without_part}
    outcome = send(node, json.dumps(trigger).encode())
    assert outcome["state"] == "succeeded"
    assert outcome["results"][1] is None


def test_the_orchestrator_gets_the_nodes_and_updates_its_taints(launch):
    node, _ = launch("orchestrator")
    outcome = send(node, trigger_of("orchestrator"))
    assert outcome["state"] == "succeeded"
    loaded, updated = map(json.loads, outcome["results"])
    assert loaded == {"orchestrator": "k3s", "nodes": 3}
    assert updated == {"updated": ["10.0.0.11", "10.0.0.12", "10.0.0.13"]}


def test_an_error_response_of_the_orchestrator_is_the_reason_why_the_run_fails(launch):
    node, _ = launch("orchestrator")
    trigger = json.loads(trigger_of("orchestrator"))
    trigger["payload"]["ips"] = ["press 3"]
    outcome = send(node, json.dumps(trigger).encode())
    assert outcome["state"] == "failed"
    assert "does not appear to be an IPv4 or IPv6 address" in outcome["reason"]
