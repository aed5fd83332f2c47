"""Real brokers for tests: Mosquitto, the NATS server (which has an MQTT port) and RabbitMQ."""

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

from ports import free_port

START_LIMIT_S = 20


def need(program: str) -> str:
    """The path of a program. Without it, a test is skipped, except in CI, where the test fails."""
    path = shutil.which(program, path=f"{os.environ['PATH']}:{sysconfig.get_path('scripts')}")
    if path is None and Path(f"/usr/sbin/{program}").exists():
        path = f"/usr/sbin/{program}"
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{program} is missing")
        pytest.skip(f"{program} is missing: apt install {program}")
    return path


class Broker:
    """A broker process on its own port. Tests can stop, kill and start it again.

    ``kind`` is mosquitto or nats. ``extra`` is additional text for the configuration file.
    """

    def __init__(self, kind: str, folder: Path, extra: str = "") -> None:
        self.kind = kind
        self.port = free_port()
        self.folder = folder
        self.config = folder / f"{kind}.conf"
        self._process: subprocess.Popen[bytes] | None = None
        if kind == "mosquitto":
            self.config.write_text(
                # 0 means no limit. By default, Mosquitto queues only 1,000 messages for a client.
                "max_queued_messages 0\n"
                f"listener {self.port} 127.0.0.1\nallow_anonymous true\n{extra}"
                f"persistence true\npersistence_location {folder}/\nautosave_interval 1\n"
                "user root\n"
            )
        else:
            self.config.write_text(
                f'server_name: test\nlisten: "127.0.0.1:{free_port()}"\n'
                f'jetstream {{ store_dir: "{folder / "nats"}" }}\n'
                f'mqtt {{ listen: "127.0.0.1:{self.port}", ack_wait: "2s" }}\n{extra}'
            )

    @property
    def protocol(self) -> str:
        """The newest MQTT version that the broker supports."""
        return "5" if self.kind == "mosquitto" else "3.1.1"

    def start(self) -> Broker:
        """Start the broker, and wait until it listens."""
        program = need("mosquitto" if self.kind == "mosquitto" else "nats-server")
        log = (self.folder / f"{self.kind}.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [program, "-c", str(self.config)], stdout=log, stderr=log
            )
        end = time.monotonic() + START_LIMIT_S
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            assert self._process.poll() is None, (self.folder / f"{self.kind}.log").read_text()
            time.sleep(0.02)
        raise AssertionError(f"{self.kind} does not listen on port {self.port}")

    def send_signal(self, number: int) -> None:
        """Send a signal to the broker process, such as SIGSTOP."""
        self._process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop the broker, and wait until its process has ended."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(20)
            self._process = None


@pytest.fixture(params=["mosquitto", "nats"])
def broker(request, tmp_path):
    """A running broker. Each test is run twice: with Mosquitto, and with the NATS server."""
    running = Broker(request.param, tmp_path).start()
    yield running
    running.stop(signal.SIGKILL)


@pytest.fixture
def mosquitto(tmp_path):
    """A running Mosquitto."""
    running = Broker("mosquitto", tmp_path).start()
    yield running
    running.stop(signal.SIGKILL)


class RabbitMq:
    """A RabbitMQ broker with the MQTT plugin, with its own folder and node name.

    RabbitMQ supports only MQTT 3.1.1. It takes seconds to start, so all tests in a pytest process
    share one broker. This class starts and stops the port mapper of RabbitMQ (epmd), because
    RabbitMQ would leave it running.
    """

    protocol = "3.1.1"

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> RabbitMq:
        """Start the broker, and wait until it listens for MQTT."""
        need("rabbitmq-server")
        mapper_port = free_port()
        (self.folder / "plugins").write_text("[rabbitmq_mqtt].")
        (self.folder / "env.conf").touch()
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{free_port()}\n"
            f"mqtt.listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            "mqtt.allow_anonymous = true\n"
        )
        environ = {
            **os.environ,
            "HOME": str(self.folder),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
            "ERL_EPMD_PORT": str(mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"test-{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_CONF_ENV_FILE": str(self.folder / "env.conf"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
        }
        # /usr/sbin/rabbitmq-server is not used: it would switch to the user rabbitmq.
        for command in (["epmd"], ["/usr/lib/rabbitmq/bin/rabbitmq-server"]):
            with (self.folder / "out").open("ab") as out:
                self._processes.append(
                    subprocess.Popen(command, env=environ, stdout=out, stderr=out, cwd=self.folder)
                )
        end = time.monotonic() + 3 * START_LIMIT_S
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            assert self._processes[-1].poll() is None, (self.folder / "out").read_text()
            time.sleep(0.05)
        raise AssertionError(f"RabbitMQ does not listen on port {self.port}")

    def stop(self) -> None:
        """Kill the broker, whose data is not needed. Then stop the port mapper."""
        os.kill(int((self.folder / "pid").read_text()), signal.SIGKILL)
        for process in reversed(self._processes):
            if process is self._processes[0]:
                process.terminate()
            process.wait(30)


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory):
    """A running RabbitMQ."""
    running = RabbitMq(tmp_path_factory.mktemp("rabbitmq")).start()
    yield running
    running.stop()
