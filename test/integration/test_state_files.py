"""Damaged small files of the state folder are reported with a message, without a traceback."""

from __future__ import annotations

from hashlib import blake2b

import pytest
from click.testing import CliRunner

from fractal_rm.cli.exits import EXIT_FAILED
from fractal_rm.cli.main import cli
from fractal_rm.domain.state import State
from nodes import NodeProcess, wait_until

DEEPLY_NESTED = b"[" * 100_000 + b"]" * 100_000
NOT_JSON = [b"", b"{", b"\xff\xfe\0", b"\0" * 64, b"[7]", b'{"a": 1e400}', DEEPLY_NESTED]


@pytest.fixture
def node(tmp_path, components):
    new_node = NodeProcess(tmp_path / "n", components=components.port, mode="up")
    new_node.state.mkdir()
    yield new_node
    if new_node.process is not None and new_node.process.poll() is None:
        new_node.process.kill()
        new_node.process.wait()


def write_state_file(node: NodeProcess, name: str, content: bytes) -> None:
    (node.state / name).write_bytes(content)


def assert_serves(node: NodeProcess) -> None:
    """Assert that the node executes a run and has logged no traceback."""
    assert node.trigger("2", Prefer="wait=30").body["state"] == "succeeded"
    assert "Traceback" not in node.log


def test_a_node_whose_control_file_cannot_be_read_is_paused_until_resume(node):
    write_state_file(node, "control.json", DEEPLY_NESTED)
    node.start()
    assert "control.json cannot be read: nested deeper" in node.log
    assert "still=paused" in node.log
    _, _, accepted = node.trigger("2")
    assert accepted["state"] == "accepted"
    resumed = CliRunner().invoke(cli, ["resume", "--config", str(node.config)])
    assert resumed.exit_code == 0
    wait_until(lambda: node.runs(State.SUCCEEDED))
    for content in NOT_JSON:  # while the node runs, damage to the file has no effect
        write_state_file(node, "control.json", content)
    assert_serves(node)


@pytest.mark.parametrize("content", [b"\xff\xfe\0", b'{"a": 1e400}', DEEPLY_NESTED])
def test_unreadable_files_of_topics_and_schedules_are_reported_and_replaced(
    node, mosquitto, content
):
    node.edit("comm", mqtt__port=mosquitto.port, mqtt__client_id="node")
    name = blake2b(b"node", digest_size=8).hexdigest()
    write_state_file(node, f"mqtt-topics-{name}.json", content)
    write_state_file(node, "schedules.json", content)
    flows = (node.config / "flows.conf").read_text()
    (node.config / "flows.conf").write_text(f"{flows}\n3\nEVERY 1h\nTO component1 1\nGET\n")
    node.start().wait_connected()
    assert_serves(node)
    assert " subscriptions_unreadable " in node.log
    assert " schedules_unreadable " in node.log
    node.stop()
    assert (node.state / "schedules.json").read_bytes().startswith(b'{"3 EVERY')


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a\0b"])
def test_an_invalid_client_id_is_reported_and_not_replaced(node, content):
    write_state_file(node, "mqtt-client-id", content)
    node.launch()
    assert node.process.wait(30) == EXIT_FAILED
    assert "mqtt-client-id has no valid MQTT client id; write the id that this node had" in node.log
    assert "Traceback" not in node.log
    assert (node.state / "mqtt-client-id").read_bytes() == content
