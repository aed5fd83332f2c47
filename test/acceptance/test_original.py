"""The steps in the README of the original Runtime Manager work with this project.

The test runs them in a copy of the project with a new virtual environment.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from brokers import need
from nodes import wait_until

ROOT = Path(__file__).parents[2]
STEPS = [
    "python3 -m venv .venv",
    ". .venv/bin/activate",
    "pip install -r requirements.txt",
    "python test_rest_api.py",
    "python rm_mqtt.py",
    "python test_mqtt_publisher.py",
    "python rm_api.py",
]


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Shell:
    """Runs commands in a copy of the project, with the virtual environment of the copy."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self._running: list[subprocess.Popen[bytes]] = []

    def run(self, command: str, folder: str = ".") -> str:
        """Run a command, and return its output. Asserts that the command succeeds."""
        result = subprocess.run(
            ["bash", "-c", self._activated(command)], cwd=self.project / folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self._environ(),
        )  # fmt: skip
        assert result.returncode == 0, f"{command}\n{result.stdout}"
        return result.stdout

    def launch(self, command: str, folder: str) -> Path:
        """Start a command, and do not wait for its end. Returns the file to which it writes."""
        log = self.project / f"{command.rsplit(maxsplit=1)[-1]}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-c", self._activated(f"exec {command}")], cwd=self.project / folder,
                stdout=out, stderr=out, env=self._environ(),
            )  # fmt: skip
        self._running.append(process)
        return log

    def interrupt_all(self) -> list[int]:
        """Send SIGINT to all started commands, the last one first. Returns their exit codes."""
        codes = []
        for process in reversed(self._running):
            process.send_signal(signal.SIGINT)
            codes.append(process.wait(40))
        self._running.clear()
        return codes

    def _activated(self, command: str) -> str:
        return f". {self.project}/.venv/bin/activate && {command}"

    def _environ(self) -> dict[str, str]:
        environ = {
            k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "VIRTUAL_ENV"))
        }
        return {
            **environ,
            "PYTHONUNBUFFERED": "1",
            "PIP_NO_COMPILE": "1",  # saves time: most of the installed modules are never imported
        }


@pytest.fixture
def shell(tmp_path):
    """A shell for a copy of all files of the project that git does not ignore."""
    project = tmp_path / "fractal-rm"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout.decode()  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, project / name)
    shell = Shell(project)
    yield shell
    shell.interrupt_all()


@pytest.fixture
def broker_at_1883(tmp_path):
    """A broker on port 1883. If none is running there, this fixture starts Mosquitto."""
    if listens(1883):
        yield
        return
    configuration = tmp_path / "mosquitto.conf"
    configuration.write_text("listener 1883 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen(
        [need("mosquitto"), "-c", str(configuration)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(lambda: listens(1883))
    yield
    process.terminate()
    process.wait()


def test_the_readme_contains_the_steps_that_the_next_test_runs():
    lines = [line.strip() for line in (ROOT / "README.md").read_text().splitlines()]
    places = [lines.index(step) for step in STEPS]
    assert places == sorted(places)
    assert "apt install make git python3-venv" in " ".join(lines)


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.usefixtures("broker_at_1883")
def test_every_step_in_the_readme_of_the_original_succeeds(shell):
    for port in (5000, 6000):
        assert not listens(port), f"port {port}, which the original's files use, is not free"
    subprocess.run([sys.executable, "-m", "venv", str(shell.project / ".venv")], check=True)
    shell.run("pip install -q -r requirements.txt")

    flows = shell.project / "runtime_manager" / "config_files" / "flows.conf"
    flows.write_text(flows.read_text().replace("1\nTO", "1 my first flow\nTO", 1))

    simulator = shell.launch("python test_rest_api.py", "test")
    wait_until(lambda: listens(6000))
    rm_mqtt = shell.launch("python rm_mqtt.py", "runtime_manager")
    wait_until(lambda: "mqtt_connected" in rm_mqtt.read_text())
    published = shell.run("python test_mqtt_publisher.py", "test")
    assert "published on component_msg" in published
    wait_until(lambda: "endpoint1" in simulator.read_text() or "nodo" in simulator.read_text())

    shell.launch("python rm_api.py", "runtime_manager")
    wait_until(lambda: listens(5000))
    for flow in ("1", "2", "3"):
        message = {"id_flow": flow, "is_load_balancing": True, "payload": "0x03abcdefghil"}
        request = urllib.request.Request(
            "http://127.0.0.1:5000/startrm",
            json.dumps(message).encode(),
            {"Content-Type": "application/json", "Prefer": "wait=30"},
        )
        with urllib.request.urlopen(request) as reply:
            answer = json.load(reply)
        assert answer["state"] == "succeeded"
    for flow in ("2", "3"):
        shell.run(f"python test_mqtt_publisher.py {flow}", "test")

    def ended_runs():
        """The source and the flow of each run if all six runs have ended, otherwise None."""
        config = "--config runtime_manager/config_files --json"
        listed = json.loads(shell.run(f"fractal-rm runs list {config}"))["runs"]
        sources = sorted((run["source"], run["flow"]) for run in listed)
        assert {run["state"] for run in listed} <= {
            "succeeded", "handed-off", "accepted", "running", "offered",
        }  # fmt: skip
        final = all(run["state"] in ("succeeded", "handed-off") for run in listed)
        return sources if final and len(sources) == 6 else None

    assert wait_until(ended_runs) == [
        (source, flow) for source in ("mqtt", "rest") for flow in "123"
    ]
    assert shell.run("fractal-rm audit --config runtime_manager/config_files").count("yes") == 3
    assert sorted(path.name for path in (shell.project / "runtime_manager" / "state").iterdir()
                  if path.suffix == ".journal") == ["api.journal", "mqtt.journal"]  # fmt: skip
    assert shell.interrupt_all() == [0, 0, 0]


def test_the_simulators_can_be_imported_as_modules():
    script = "import test_rest_api, test_mqtt_publisher; print(test_rest_api.PORT)"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT / "test", capture_output=True, check=True
    )
    assert result.stdout == b"6000\n"


def test_the_launchers_are_short():
    for name in ("rm_mqtt.py", "rm_api.py"):
        lines = (ROOT / "runtime_manager" / name).read_text().splitlines()
        assert len(lines) <= 15
