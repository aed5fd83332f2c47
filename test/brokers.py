"""Real brokers for tests: Mosquitto and the NATS server through its MQTT port."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from pathlib import Path

import pytest

START_LIMIT_S = 20


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def need(program: str) -> str:
    """The path of a program; without it a test is left out, which CI does not accept."""
    found = shutil.which(program, path=f"{os.environ['PATH']}:{sysconfig.get_path('scripts')}")
    if found is None and Path(f"/usr/sbin/{program}").exists():
        found = f"/usr/sbin/{program}"
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{program} is missing")
        pytest.skip(f"{program} is missing: apt install {program}")
    return found


class Broker:
    """A broker process on a port of its own; it can be stopped, killed and started again."""

    def __init__(self, kind: str, folder: Path, extra: str = "") -> None:
        self.kind = kind
        self.port = free_port()
        self.folder = folder
        self._config = folder / f"{kind}.conf"
        self._process: subprocess.Popen[bytes] | None = None
        if kind == "mosquitto":
            self._config.write_text(
                # Otherwise it keeps 1,000 messages for a client that is away and drops more.
                "max_queued_messages 0\n"
                f"listener {self.port} 127.0.0.1\nallow_anonymous true\n{extra}"
                f"persistence true\npersistence_location {folder}/\nautosave_interval 1\n"
                "user root\n"
            )
        else:
            self._config.write_text(
                f'server_name: test\nlisten: "127.0.0.1:{free_port()}"\n'
                f'jetstream {{ store_dir: "{folder / "nats"}" }}\n'
                f'mqtt {{ listen: "127.0.0.1:{self.port}", ack_wait: "2s" }}\n{extra}'
            )

    @property
    def protocol(self) -> str:
        """The MQTT that it speaks."""
        return "5" if self.kind == "mosquitto" else "3.1.1"

    def start(self) -> Broker:
        """Start it and wait until it listens."""
        program = need("mosquitto" if self.kind == "mosquitto" else "nats-server")
        log = (self.folder / f"{self.kind}.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [program, "-c", str(self._config)], stdout=log, stderr=log
            )
        end = time.monotonic() + START_LIMIT_S
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            assert self._process.poll() is None, (self.folder / f"{self.kind}.log").read_text()
            time.sleep(0.02)
        raise AssertionError(f"{self.kind} does not listen")

    def send_signal(self, number: int) -> None:
        """Send it a signal, SIGSTOP for example."""
        self._process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it and wait for that."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None


@pytest.fixture(params=["mosquitto", "nats"])
def broker(request, tmp_path):
    """A running broker of each kind."""
    made = Broker(request.param, tmp_path).start()
    yield made
    made.stop(signal.SIGKILL)


@pytest.fixture
def mosquitto(tmp_path):
    """A running Mosquitto."""
    made = Broker("mosquitto", tmp_path).start()
    yield made
    made.stop(signal.SIGKILL)
