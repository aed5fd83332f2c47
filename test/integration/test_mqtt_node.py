"""A whole node with a real MQTT broker."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from brokers import Broker, need
from components import Components
from fractal_rm.domain.state import State
from mqtt_stage import listener, other_client, send, until
from nodes import NodeProcess, wait_until


async def test_a_puback_is_sent_after_the_fsync(mosquitto, tmp_path, components):
    need("strace")
    trace = tmp_path / "trace"
    node = NodeProcess(tmp_path / "n", components=components.port, broker=mosquitto.port)
    node.command_prefix = ["strace", "-D", "-f", "-o", str(trace), "-xx", "-s", "999", "-e",
                   "trace=recvfrom,read,write,sendto,fdatasync"]  # fmt: skip
    node.start().wait_connected()
    async with other_client(mosquitto) as client:
        client.publish(node.topic, json.dumps({"id_flow": "2", "payload": "sync me"}), qos=1)
        wait_until(lambda: len(node.runs(State.SUCCEEDED)) == 1)
    assert node.stop() == 0
    end_of_trace = f"{trace.read_text().split()[0]} +++ exited"
    calls = wait_until(lambda: lines_of_ended_trace(trace, end_of_trace))
    received = first_index(calls, "".join(f"\\x{byte:02x}" for byte in b"sync me"))
    synced = first_index(calls[received:], "fdatasync", "= 0")
    puback = first_index(calls[received:], ', "\\x40\\x')
    assert 0 < synced < puback


def lines_of_ended_trace(trace: Path, end_of_trace: str) -> list[str] | None:
    """The lines of a trace. Returns None while no traced process has ended."""
    lines = [" ".join(line.split()) for line in trace.read_text().splitlines()]
    return lines if any(line.startswith(end_of_trace) for line in lines) else None


def first_index(calls: list[str], *words: str) -> int:
    """The index of the first call that contains all of these words."""
    return next(at for at, call in enumerate(calls) if all(word in call for word in words))


def test_a_second_process_with_the_same_client_id_does_not_start(mosquitto, tmp_path, components):
    node = NodeProcess(tmp_path / "n", components=components.port, broker=mosquitto.port).start()
    node.wait_connected()
    command = [sys.executable, "-m", "fractal_rm.cli.main", "mqtt", "--config", node.config]
    second = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert second.returncode == 4
    assert f"is in use by process {node.process.pid}; stop that process first" in second.stderr
    assert "Traceback" not in second.stderr
    assert node.check("mqtt")
    assert node.stop() == 0
    assert node.log.count("mqtt_connected") == 1


@pytest.fixture(scope="module")
def node_and_broker(tmp_path_factory):
    """A node that gets all invalid messages, and its broker. No message may end the node."""
    folder = tmp_path_factory.mktemp("bad")
    broker = Broker("mosquitto", folder).start()
    components = Components()
    node = NodeProcess(folder / "n", components=components.port, broker=broker.port).start()
    yield node.wait_connected(), broker
    assert node.stop() == 0
    assert "Traceback" not in node.log
    broker.stop()
    components.stop()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe\xfd",
        b"plain text",
        b"\x00\x01\x02" * 1000,
        b"[" * 100_000,
        b"x" * 10_000_000,
        b'{"id_flow": "1"}',
        b'{"payload": 1}',
        b'{"id_flow": {}, "payload": 1}',
        b'{"id_flow": "1", "payload": NaN}',
        b'{"id_flow": "1", "id_flow": "2", "payload": 1}',
        b'{"id_flow": "99", "payload": 1}',
    ],
    ids=["empty", "broken UTF-8", "text", "binary", "deeply nested", "10 MB", "no payload",
         "no flow", "id_flow is an object", "NaN", "id_flow twice", "unknown flow"],
)  # fmt: skip
async def test_a_message_that_cannot_become_a_run_is_a_dead_letter(node_and_broker, body):
    node, broker = node_and_broker
    dead_before = len(node.runs(State.DEAD))
    async with other_client(broker) as client:
        client.publish(node.topic, body, qos=1)
        await client.storage.wait_empty()
        wait_until(lambda: len(node.runs(State.DEAD)) == dead_before + 1)
        newest = node.runs(State.DEAD)[0]
        assert newest.reason
        assert newest.source == "mqtt"
        client.publish(node.topic, b'{"id_flow": "2", "payload": 1}', qos=1)
        await client.storage.wait_empty()
    wait_until(lambda: node.runs()[0].state is State.SUCCEEDED)


# --- replies -----------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path, mosquitto):
    components = Components()
    new_node = NodeProcess(tmp_path / "node", components=components.port, broker=mosquitto.port)
    new_node.components = components
    yield new_node
    new_node.stop()
    components.stop()


async def request(node, broker, payload):
    """Send a trigger with a response topic."""
    message = json.dumps({"id_flow": "2", "payload": payload}).encode()
    await send(broker, node.topic, message, response_topic="answers", correlation_data=b"c")


async def test_a_node_publishes_the_reply_on_the_response_topic(node, mosquitto):
    node.start().wait_connected()
    async with listener(mosquitto, "answers") as received:
        await request(node, mosquitto, "p")
        await until(lambda: received)
        ((body, correlation),) = received
        reply = json.loads(body)
        assert (reply["state"], reply["reply"], correlation) == ("succeeded", '{"ok": true}', b"c")
        assert node.history.run(reply["run"]) is not None


async def test_a_reply_is_published_after_a_broker_restart_and_a_kill(node, mosquitto):
    def when_released(*_):
        node.components.release.wait(60)
        return 200, "at last"

    node.components.answers["/endpoint2"] = when_released
    node.start().wait_connected()
    await request(node, mosquitto, "p")
    await until(lambda: node.components.requests)
    mosquitto.stop()
    node.components.release.set()
    (run,) = node.runs()
    fact_names = lambda: [type(each.fact).__name__ for each in node.history.run(run.id).facts]  # noqa: E731
    await until(lambda: "Replying" in fact_names())
    node.kill()
    mosquitto.start()
    async with listener(mosquitto, "answers") as received:
        node.start()
        await until(lambda: received)
        assert json.loads(received[0][0])["run"] == run.id
    await until(lambda: node.runs(State.SUCCEEDED))
    assert len(node.components.requests) == 1
