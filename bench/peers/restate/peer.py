"""Restate: durable execution as a server, with flow 1 as a service of its SDK."""

from __future__ import annotations

import json
import platform
import shutil
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.installed import FOLDER, install_once, no_node, node, npm_ci
from bench.processes import HOST, READY_WITHIN_S, Running, free_port, running

HERE = Path(__file__).parent
INSTALLED = FOLDER / "restate"
PACKAGES = INSTALLED / "node_modules" / "@restatedev"
MACHINES = {"x86_64": "x64", "aarch64": "arm64"}


class Restate:
    durable = "trigger, each step, outcome"
    max_triggers = sys.maxsize
    slow = True

    @property
    def name(self) -> str:
        about = PACKAGES / "restate-server" / "package.json"
        version = json.loads(about.read_text())["version"] if about.exists() else "not installed"
        return f"Restate {version}"

    def missing(self) -> str | None:
        if platform.machine() not in MACHINES:
            return f"Restate's package has no server for {platform.machine()}"
        return no_node("Restate's SDK")

    def install(self) -> None:
        install_once(INSTALLED, HERE / "package-lock.json", lambda made: npm_ci(made, HERE))

    @contextmanager
    def start(
        self, folder: Path, nginx_port: int, broker_port: int, topic: str
    ) -> Iterator[list[int]]:
        """Run Restate as shipped, on loopback, without telemetry and log lines for runs.

        With the folder of an earlier start, Restate continues its runs. It has stored the address
        of the service, so all ports must be those of the earlier start.
        """
        ports = folder / "ports.json"
        known = ports.exists()
        if not known:
            ports.write_text(json.dumps([free_port() for _ in range(4)]))
        ingress, admin, internal, own = json.loads(ports.read_text())
        settings = {
            "RESTATE_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1", "RESTATE_LOG_FILTER": "warn",
            "RESTATE_INGRESS__BIND_ADDRESS": f"{HOST}:{ingress}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"{HOST}:{admin}",
        }  # fmt: skip
        server = (
            PACKAGES / f"restate-server-linux-{MACHINES[platform.machine()]}/bin/restate-server",
            "--no-logo", "--listen-mode", "tcp", "--node-name", "bench", "--bind-ip", HOST,
            "--bind-port", str(internal), "--base-dir", folder / "restate",
        )  # fmt: skip
        # The script is run from the folder of its packages, as Node.js searches them there.
        script = shutil.copy(HERE / "service.js", INSTALLED)
        service = (node(), script, str(own), str(nginx_port))
        quiet = {"RESTATE_LOGGING": "ERROR", "NODE_ENV": "production"}
        bridge = (sys.executable, HERE / "bridge.py", str(ingress), str(broker_port), topic)
        with (
            running(*server, log=folder / "server.log", environment=settings) as server_process,
            running(*service, log=folder / "service.log", environment=quiet) as service_process,
        ):
            service_process.wait_for_log("listening")
            _wait_healthy(server_process, f"http://{HOST}:{admin}/health")
            if not known:
                _register(f"http://{HOST}:{admin}/deployments", f"http://{HOST}:{own}")
            _wait_healthy(server_process, f"http://{HOST}:{ingress}/restate/health")
            with running(*bridge, log=folder / "bridge.log") as bridge_process:
                bridge_process.wait_for_log("subscribed")
                yield [server_process.pid, service_process.pid, bridge_process.pid]


def _wait_healthy(server: Running, url: str) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while not _answers(url):
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"not healthy; its log ends in: {server.log.read_text()[-2000:]}")
        time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


def _register(url: str, service: str) -> None:
    """Register the address of the service with Restate."""
    body = json.dumps({"uri": service}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=30).close()
