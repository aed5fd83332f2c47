"""A node as a service of systemd: what it tells the service manager."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from brokers import need
from engine_stage import Stage
from fractal_rm.adapters.memory import QuietTelemetry
from fractal_rm.adapters.service_manager import ServiceManager, watchdog_s
from fractal_rm.wiring.service import NoService, make_service
from nodes import wait_until

UNITS = sorted((Path(__file__).parents[2] / "examples/systemd").glob("*.service"))


class Listener:
    """Receives the messages of a service, as systemd does."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.settimeout(30)

    def message(self) -> dict[str, str]:
        """Wait for the next message, and return its fields."""
        lines = self._socket.recv(10_000).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def message_with(self, name: str) -> dict[str, str]:
        """Wait for the next message that has this field."""
        while name not in (message := self.message()):
            pass
        return message

    def read_all(self) -> None:
        """Read the messages that have arrived already."""
        while self._is_readable(0):
            self.message()

    def is_silent_for(self, seconds: float) -> bool:
        """Return whether no message arrives. Blocks the thread."""
        return not self._is_readable(seconds)

    def _is_readable(self, within_s: float) -> bool:
        return bool(select.select([self._socket], [], [], within_s)[0])

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def listener_at(request, tmp_path):
    """The address of a socket, and its listener."""
    path = str(tmp_path / "notify")
    address = path if request.param == "path" else f"@fractal-rm-{os.getpid()}-{tmp_path.name}"
    listener = Listener(address)
    yield address, listener
    listener.close()


def test_a_node_says_when_it_is_ready_rereads_its_files_works_and_stops(make, listener_at):
    address, listener = listener_at
    node = make().start(NOTIFY_SOCKET=address, WATCHDOG_USEC="400000")
    ready = listener.message()
    assert ready["READY"] == "1"
    assert ready["STATUS"].startswith("serving; 0 runs in flight")
    for _ in range(3):
        assert listener.message_with("WATCHDOG")["WATCHDOG"] == "1"

    node.process.send_signal(signal.SIGHUP)
    reloading = listener.message_with("RELOADING")
    assert int(reloading["MONOTONIC_USEC"]) > 0
    assert listener.message_with("READY")["STATUS"] == "the configuration is in use"

    (node.config / "flows.conf").write_text("1\nSEND\n")
    node.process.send_signal(signal.SIGHUP)
    listener.message_with("RELOADING")
    assert "F101" in listener.message_with("READY")["STATUS"]

    node.process.send_signal(signal.SIGTERM)
    stopping = listener.message_with("STOPPING")
    assert int(stopping["EXTEND_TIMEOUT_USEC"]) >= 30_000_000
    assert node.stop() == 0


def test_a_node_whose_service_manager_does_not_listen_runs_and_logs_it_once(make, tmp_path):
    node = make().start(NOTIFY_SOCKET=str(tmp_path / "nobody"), WATCHDOG_USEC="20000")
    assert node.outcome("1")["state"] == "succeeded"
    assert node.log.count("service_manager_not_told") == 1


async def test_a_hung_event_loop_says_nothing(tmp_path):
    listener = Listener(str(tmp_path / "notify"))
    async with Stage() as stage:
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000"}
        service = make_service(stage.node, stage.dependencies, environment)
        service.ready()
        await asyncio.to_thread(listener.message_with, "WATCHDOG")
        listener.read_all()
        # This waits without giving the event loop a turn, for ten times the interval.
        assert listener.is_silent_for(0.1)
        await asyncio.to_thread(listener.message_with, "WATCHDOG")
        service.close()
    listener.close()


async def test_a_status_is_one_line_and_the_service_manager_is_told_of_changes(tmp_path):
    listener = Listener(str(tmp_path / "notify"))
    manager = ServiceManager(str(tmp_path / "notify"), QuietTelemetry())
    manager.notify(STATUS="disk\nREADY=1\x1b[31m", READY=1)
    assert listener.message() == {"STATUS": "disk\\nREADY=1\\x1b[31m", "READY": "1"}
    manager.close()
    listener.close()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_only_fed_if_it_expects_this_process(environment, expected):
    assert watchdog_s(environment, 7) == expected


async def test_without_a_service_manager_nothing_is_told():
    async with Stage() as stage:
        assert isinstance(make_service(stage.node, stage.dependencies, {}), NoService)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_example_units_are_hardened(unit):
    result = subprocess.run(
        [need("systemd-analyze"), "security", "--offline=true", "--no-pager",
         "--threshold=20", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-200:]


@pytest.mark.parametrize("way", ["nocreate", "copytruncate"])
def test_logrotate_moves_the_log_while_the_node_writes_it(make, tmp_path, way):
    node = make()
    folder = tmp_path / "log"
    folder.mkdir(mode=0o755)
    node.edit("comm", log__path=str(folder / "node.log"))
    node.launch()
    wait_until(lambda: (folder / "node.log").exists() and " ready " in read(folder / "node.log"))
    example = Path(__file__).parents[2] / "examples/logrotate/fractal-rm"
    text = example.read_text().replace("/var/log/fractal-rm", str(folder)).replace("nocreate", way)
    configuration = tmp_path / "logrotate.conf"
    configuration.write_text(text)
    configuration.chmod(0o644)
    subprocess.run(
        [need("logrotate"), "--force", "--state", str(tmp_path / "rotated"), str(configuration)],
        check=True,
    )
    assert " ready " in read(folder / "node.log.1")
    node.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "reload_requested" in read(folder / "node.log"))
    assert " ready " not in read(folder / "node.log")


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
