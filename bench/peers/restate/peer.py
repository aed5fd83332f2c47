"""Restate, a server for durable execution. Flow 1 is a service of its JavaScript SDK."""

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

from bench.peers.installed import FOLDER, install_once, missing_node_js_reason, node_js, npm_ci
from bench.processes import HOST, READY_WITHIN_S, Running, free_port, running

HERE = Path(__file__).parent
INSTALLED = FOLDER / "restate"
PACKAGES = INSTALLED / "node_modules" / "@restatedev"
MACHINES = {"x86_64": "x64", "aarch64": "arm64"}


class Restate:
    durable_data = "trigger, each step, outcome"
    max_triggers = sys.maxsize
    is_slow = True

    @property
    def name(self) -> str:
        about = PACKAGES / "restate-server" / "package.json"
        version = json.loads(about.read_text())["version"] if about.exists() else "not installed"
        return f"Restate {version}"

    def missing_reason(self) -> str | None:
        if platform.machine() not in MACHINES:
            return f"Restate's npm package has no server for {platform.machine()}"
        return missing_node_js_reason("Restate's SDK")

    def install(self) -> None:
        install_once(INSTALLED, HERE / "package-lock.json", lambda folder: npm_ci(folder, HERE))

    @contextmanager
    def start(
        self, folder: Path, nginx_port: int, broker_port: int, topic: str
    ) -> Iterator[list[int]]:
        """Start Restate with its default settings, on loopback, without telemetry and run logs.

        If ``folder`` was used before, Restate continues the runs that are stored in it. The address
        of the service is stored there, too. So a second start must use the ports of the first
        start, which are in ports.json.
        """
        ports_file = folder / "ports.json"
        is_first_start = not ports_file.exists()
        if is_first_start:
            ports_file.write_text(json.dumps([free_port() for _ in range(4)]))
        ingress, admin, internal, service_port = json.loads(ports_file.read_text())
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
        # Node.js looks for packages in the folder of the script, so the script is copied there.
        script = shutil.copy(HERE / "service.js", INSTALLED)
        service = (node_js(), script, str(service_port), str(nginx_port))
        quiet = {"RESTATE_LOGGING": "ERROR", "NODE_ENV": "production"}
        bridge = (sys.executable, HERE / "bridge.py", str(ingress), str(broker_port), topic)
        with (
            running(*server, log=folder / "server.log", environment=settings) as server_process,
            running(*service, log=folder / "service.log", environment=quiet) as service_process,
        ):
            service_process.wait_for_log("listening")
            _wait_until_healthy(server_process, f"http://{HOST}:{admin}/health")
            if is_first_start:
                _register(f"http://{HOST}:{admin}/deployments", f"http://{HOST}:{service_port}")
            _wait_until_healthy(server_process, f"http://{HOST}:{ingress}/restate/health")
            with running(*bridge, log=folder / "bridge.log") as bridge_process:
                bridge_process.wait_for_log("subscribed")
                yield [server_process.pid, service_process.pid, bridge_process.pid]


def _wait_until_healthy(server: Running, url: str) -> None:
    """Wait for a 2xx response. Raises RuntimeError after READY_WITHIN_S or if the server ends."""
    deadline = time.monotonic() + READY_WITHIN_S
    while not _is_healthy(url):
        if server.process.poll() is not None or time.monotonic() > deadline:
            log_end = server.log.read_text()[-2000:]
            raise RuntimeError(f"Restate is not healthy at {url}. Its log ends with: {log_end}")
        time.sleep(0.05)


def _is_healthy(url: str) -> bool:
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
