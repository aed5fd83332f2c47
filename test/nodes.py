"""Starts real nodes: processes of `fractal-rm`, each with its own folder and ports."""

from __future__ import annotations

import copy
import http.client
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest

import programs
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.domain.state import State
from ports import free_port

HOST = "127.0.0.1"
WITHIN_S = 30
FLOWS = """\
1
TO component1 1
POST payload
TO component2 1
POST result1
TO component3 1
POST result1 result2

2
TO component1 2
GET
"""


class Response(NamedTuple):
    """A response of a node. ``body`` is decoded from JSON; it is None if there is no content."""

    status: int
    headers: dict[str, str]
    body: Any


class NodeProcess:
    """A process of `fractal-rm up`, `mqtt` or `api`, with a configuration that tests can change.

    ``components``, ``broker`` and ``balancer`` are ports. ``launched`` has all processes of the
    test session.
    """

    launched: ClassVar[list[subprocess.Popen[bytes] | programs.Program]] = []

    def __init__(self, folder: Path, *, components: int, broker: int | None = None,
                 balancer: int | None = None, mode: str = "up") -> None:  # fmt: skip
        self.folder = folder
        self.config = folder / "config_files"
        self.state = folder / "state"
        self.rest = free_port()
        self.topic = f"test/{folder.name}"
        self.mode = mode
        self.process: subprocess.Popen[bytes] | programs.Program | None = None
        self.command_prefix: list[str] = []  # a command that starts the node, such as `faketime`
        self.config.mkdir(parents=True)
        address = {"protocol": "http", "ip": HOST}
        endpoints = {"1": "endpoint1", "2": "endpoint2"}
        self.write("comm", {
            "mqtt": {"topic": self.topic, "host": HOST, "port": broker or free_port()},
            "rest": {"endpoint": "/startrm", "port": self.rest},
        })  # fmt: skip
        self.write("components", {
            f"component{n}": {"config": {**address, "port": components, "endpoints": endpoints}}
            for n in (1, 2, 3)
        })  # fmt: skip
        self.write("nodes", {})
        # The timeout is long, because other tests may use the CPU at the same time.
        lb = {**address, "port": balancer, "endpoint": "LB/id_node", "timeout_s": 20}
        self.write("load_balancer", lb if balancer else {})
        (self.config / "flows.conf").write_text(FLOWS)

    def second_process(self, mode: str | None = None) -> NodeProcess:
        """Return a node process with the same configuration, state folder and log, not started."""
        other = copy.copy(self)
        other.mode, other.process = mode or self.mode, None
        return other

    # --- configuration ---------------------------------------------------------------------------

    def read(self, name: str):
        """Return the content of a JSON file of the configuration."""
        return json.loads((self.config / f"{name}.conf").read_text())

    def write(self, name: str, content: object) -> None:
        """Replace a JSON file of the configuration, atomically."""
        temporary = self.config / f".{name}.new"
        temporary.write_text(json.dumps(content, indent=2))
        temporary.replace(self.config / f"{name}.conf")

    def edit(self, name: str, **changes: object) -> None:
        """Set keys in a JSON file of the configuration. ``a__b=1`` sets key b of the object a."""
        content = self.read(name)
        for path, value in changes.items():
            inner = content
            *outer, last = path.split("__")
            for key in outer:
                inner = inner.setdefault(key, {})
            inner[last] = value
        self.write(name, content)

    def add_peer(self, other: NodeProcess, node_id: str = "2", **node_keys: object) -> None:
        """Add another node to nodes.conf. ``node_keys``: further keys of "config"."""
        nodes = self.read("nodes")
        nodes[node_id] = {"id": node_id, "config": {
            "protocol": "http", "ip": HOST, "port": other.rest, "endpoint": "startrm",
            "timeout_s": 20, **node_keys,
        }}  # fmt: skip
        self.write("nodes", nodes)

    # --- the process -----------------------------------------------------------------------------

    @property
    def log(self) -> str:
        """The output of the process so far."""
        path = self.folder / "node.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def launch(self, popen_options: dict[str, Any] | None = None, **environ: str) -> NodeProcess:
        """Start the process without waiting for it.

        With ``popen_options``, the real command is started with these arguments of Popen. By
        default, the process is forked from a loaded program (see programs.py).
        """
        words = [self.mode, "--config", str(self.config)]
        environ = {**os.environ, **environ}
        with (self.folder / "node.log").open("ab") as log:
            if popen_options is None and not self.command_prefix:
                self.process = programs.start(words, log, log, environ=environ)
            else:
                streams = {"stdout": log, "stderr": log, **(popen_options or {})}
                command = [*self.command_prefix, *programs.COMMAND, *words]
                self.process = subprocess.Popen(command, env=environ, **streams)
        self.launched.append(self.process)
        return self

    def start(self, **environ: str) -> NodeProcess:
        """Start the process, and wait for the log event "ready". Asserts that the process runs.

        ``environ`` has environment variables.
        """
        earlier_starts = self.log.count(" ready ")
        self.launch(**environ)
        wait_until(lambda: self.log.count(" ready ") > earlier_starts or self._ended())
        assert not self._ended(), self.log
        return self

    def launch_ready(self, popen_options: dict[str, Any]) -> NodeProcess:
        """Start the command with arguments of Popen, and wait until /readyz answers with 200."""
        self.launch(popen_options)
        wait_until(self._answers)
        return self

    def _answers(self) -> bool:
        assert not self._ended(), self.log
        try:
            return self.get("/readyz").status == 200
        except OSError:
            return False

    def _ended(self) -> bool:
        return self.process.poll() is not None

    def wait_connected(self) -> NodeProcess:
        """Wait until the node has subscribed to its MQTT topic."""
        wait_until(lambda: self.check("mqtt"))
        return self

    def check(self, name: str) -> bool:
        """Return whether the check ``name`` of /readyz is ok."""
        _, _, health = self.get("/readyz")
        return next(check["ok"] for check in health["checks"] if check["name"] == name)

    def kill(self) -> None:
        """End the process with SIGKILL, and wait for its end."""
        self.process.kill()
        self.process.wait()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal to the process and wait for its end. Returns the exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(number)
        code = self.process.wait(40)
        self.process = None
        return code

    # --- REST ------------------------------------------------------------------------------------

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> Response:
        """Send one request, and return the response."""
        connection = http.client.HTTPConnection(HOST, self.rest, timeout=40)
        try:
            header_fields = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, header_fields)
            reply = connection.getresponse()
            content = reply.read()
            decoded = json.loads(content) if content else None
            return Response(reply.status, dict(reply.getheaders()), decoded)
        finally:
            connection.close()

    def get(self, path: str) -> Response:
        """Send a GET request; see `request`."""
        return self.request("GET", path)

    def trigger(
        self, flow: object = "1", payload: object = "p", *, ask_balancer: bool = False, **headers
    ) -> Response:
        """POST a trigger as the original does, and return the response.

        With ``ask_balancer``, the node asks the balancer where the run should be executed.
        """
        message = {"id_flow": flow, "is_load_balancing": not ask_balancer, "payload": payload}
        headers.setdefault("Content_Type", "application/json")
        return self.request("POST", "/startrm", json.dumps(message).encode(), **headers)

    def outcome(self, flow: object = "2", **headers):
        """POST a trigger whose run the balancer places, and wait for the outcome. Returns it."""
        return self.trigger(flow, ask_balancer=True, Prefer="wait=30", **headers).body

    def is_live(self) -> bool:
        """Return whether the node answers on its REST port."""
        try:
            return self.get("/livez").status == 200
        except OSError:
            return False

    def describe(self) -> dict[str, Any]:
        """Return what the node says about itself."""
        return self.get("/v1/node").body

    def checks(self) -> dict[str, str]:
        """Return the texts of the checks of /readyz, by name."""
        return {check["name"]: check["text"] for check in self.get("/readyz").body["checks"]}

    # --- commands -------------------------------------------------------------------------------

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ``fractal-rm`` with the configuration of the node."""
        return programs.run_text(*words, "--config", self.config)

    def pause(self) -> None:
        """Pause the node, and wait until the node has read the request."""
        self.command("pause", "--all")
        wait_until(lambda: "paused" in self.checks()["room"])

    # --- its journals ----------------------------------------------------------------------------

    @property
    def history(self) -> SqliteHistory:
        """A read-only view of the history in the journals of the node."""
        return SqliteHistory(self.state)

    def runs(self, state: State | None = None):
        """Return the newest runs of the node."""
        return self.history.runs(state=state, limit=100_000)

    def problems(self) -> list[str]:
        """Return the damage that `journal check` finds in the journals of the node."""
        return [
            problem
            for path in self.state.glob("*.journal")
            for problem in check_journal(path).problems
        ]


@pytest.fixture
def make(tmp_path, components):
    """Return a function that makes nodes. They are killed at the end of the test."""
    nodes = []

    def make_node(name: str = "n", **options) -> NodeProcess:
        defaults = {"components": components.port, "mode": "api"}
        node = NodeProcess(tmp_path / name, **{**defaults, **options})
        nodes.append(node)
        return node

    yield make_node
    for node in nodes:
        if node.process is not None and node.process.poll() is None:
            node.process.kill()
            node.process.wait()


def wait_until(condition, within_s: float = WITHIN_S):
    """Call ``condition`` until it returns a true value. Returns this value."""
    end = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"timed out after {within_s} s"
        time.sleep(0.01)
