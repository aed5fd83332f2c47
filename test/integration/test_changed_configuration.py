"""A configuration that changes while the node runs."""

from __future__ import annotations

import asyncio
import socket

import pytest

from engine_stage import Stage, config
from fractal_rm.changes import Changes
from fractal_rm.config.control import Control, change_control
from fractal_rm.config.load import FileWatch
from fractal_rm.config.model import Rest
from fractal_rm.engine.node import Node
from fractal_rm.engine.ports import ReadinessCheck
from nodes import FLOWS, wait_until
from ports import free_port, port_of


def test_a_change_of_flows_conf_is_applied_while_the_node_runs(make):
    node = make().start()
    (node.config / "flows.conf").write_text(FLOWS + "\n9 new\nTO component1 1\nGET\n")
    wait_until(lambda: len(node.get("/v1/flows")[2]) == 3)
    assert node.trigger("9", Prefer="wait=30")[2]["state"] == "succeeded"


def test_a_configuration_with_errors_is_rejected_and_the_last_one_stays_in_force(make):
    node = make().start()
    (node.config / "flows.conf").write_text("1\nTO compnent1 1\nGET\n")
    wait_until(lambda: "config_rejected" in node.log)
    assert 'did you mean \\"component1\\"' in node.log or "F104" in node.log
    assert node.trigger("2", Prefer="wait=30")[2]["state"] == "succeeded"
    (node.config / "flows.conf").write_text(FLOWS)
    wait_until(lambda: "config_applied" in node.log)


def test_the_rest_port_can_be_changed_but_not_to_a_port_that_is_in_use(make):
    node = make().start()
    old, new = node.rest, free_port()
    node.edit("comm", rest__port=new)
    node.rest = new
    wait_until(node.is_live)
    with socket.create_server(("127.0.0.1", free_port())) as occupied:
        node.edit("comm", rest__port=port_of(occupied))
        wait_until(lambda: "config_not_applied" in node.log)
    assert node.is_live()
    assert old != node.rest


def test_a_reference_to_a_missing_file_is_rejected_until_the_file_exists(make):
    node = make().start()
    node.edit("comm", mqtt__password="${file:sec\0ret}")
    wait_until(lambda: "config_rejected" in node.log)
    node.edit("comm", mqtt__password="${file:secret}")
    wait_until(lambda: node.log.count("config_rejected") == 2)
    (node.folder / "secret").write_text("x")  # makes the reference valid
    wait_until(lambda: "config_applied" in node.log)
    assert "Traceback" not in node.log


def test_an_endpoint_that_is_not_a_plain_path_is_rejected_and_rest_stays_open(make):
    node = make().start()
    node.edit("comm", rest__endpoint="/{b:foo}")
    wait_until(lambda: "C206" in node.log)
    assert node.is_live()
    node.edit("comm", rest__endpoint="/run")
    wait_until(lambda: "config_applied" in node.log)
    wait_until(node.is_live)


def test_a_changed_max_trigger_bytes_is_applied_to_rest_triggers(make):
    node = make()
    node.edit("comm", max_trigger_bytes=1_000)
    node.start()
    assert node.trigger("2", "x" * 5_000)[0] == 413
    node.edit("comm", max_trigger_bytes=100_000)
    wait_until(lambda: "config_applied" in node.log)
    assert node.trigger("2", "x" * 5_000)[0] == 200


def test_a_changed_state_folder_needs_a_restart(make):
    node = make().start()
    run = node.trigger("2", Prefer="wait=30")[2]["run"]
    node.edit("comm", state__path="elsewhere", rest__port=free_port())
    wait_until(lambda: "restart_needed for_the_change_of=state.path" in node.log)
    node.rest = node.read("comm")["rest"]["port"]
    wait_until(node.is_live)
    assert node.get(f"/v1/runs/{run}")[0] == 200
    assert not (node.folder / "elsewhere").exists()


async def test_an_error_while_watching_for_changes_is_logged_and_watching_continues(tmp_path):
    stage = Stage()
    stage.dependencies.config = config(folder=str(tmp_path), state_path=str(tmp_path))
    async with stage:
        changes = Changes(stage.node, stage.dependencies, FileWatch(tmp_path))
        checked = asyncio.Event()
        errors = iter([RuntimeError("an internal error"), None])

        def check():
            error = next(errors, None)
            if error is not None:
                raise error
            checked.set()

        stage.node.watch_journal = check
        watching = asyncio.create_task(changes.watch())
        await asyncio.wait_for(checked.wait(), 10)
        watching.cancel()
        assert "watch_failed" in stage.telemetry.events


async def test_a_node_stays_paused_while_its_state_folder_is_missing(tmp_path):
    stage = Stage()
    stage.dependencies.config = config(folder=str(tmp_path), state_path=str(tmp_path / "state"))
    change_control(tmp_path / "state", lambda _: Control(paused=True))
    async with stage:
        changes = Changes(stage.node, stage.dependencies, FileWatch(tmp_path))
        (tmp_path / "state").rename(tmp_path / "aside")
        stage.dependencies.journal.away = True
        await changes.apply()
        assert "resumed" not in stage.telemetry.events
        stage.dependencies.journal.away = False
        await changes.apply()
        assert "resumed" in stage.telemetry.events


class RecordedWayIn:
    """A way in that adds its starts and stops to ``calls``. Its `start` raises ``fault`` if set."""

    takes_over = False

    def __init__(self, name: str, calls: list[str], fault: Exception | None = None) -> None:
        self.name, self.calls, self.fault = name, calls, fault

    async def start(self, _predecessor=None):
        if self.fault is not None:
            raise self.fault
        self.calls.append(f"{self.name} opened")

    async def stop(self):
        self.calls.append(f"{self.name} stopped")

    def status(self):
        return ReadinessCheck(self.name, ok=True, text="open")


def with_way_in(stage: Stage, faults: dict[int, Exception]) -> list[str]:
    """Give the node one way in. Returns the list to which it adds its starts and stops.

    ``faults`` has an error for some ports. A ValueError is raised when the way in for the port is
    made. Another error is raised when this way in is opened.
    """
    calls: list[str] = []

    def make(configuration, _):
        port = configuration.rest.port
        if isinstance(faults.get(port), ValueError):
            raise faults[port]
        return RecordedWayIn(str(port), calls, faults.get(port))

    stage.node = Node(stage.dependencies, {"rest": make})
    return calls


async def test_the_old_way_in_stays_open_if_the_new_way_in_cannot_be_made():
    stage = Stage(rest=Rest(port=1))
    calls = with_way_in(stage, {2: ValueError("an internal error")})
    async with stage:
        with pytest.raises(ValueError, match="an internal error"):
            await stage.node.reconfigure(config(rest=Rest(port=2)))
        assert calls == ["1 opened"]
        assert stage.dependencies.config.rest.port == 1


async def test_the_old_way_in_is_opened_again_if_the_new_way_in_cannot_be_opened():
    stage = Stage(rest=Rest(port=1))
    calls = with_way_in(stage, {2: RuntimeError("an internal error")})
    async with stage:
        with pytest.raises(RuntimeError):
            await stage.node.reconfigure(config(rest=Rest(port=2)))
        assert calls == ["1 opened", "1 stopped", "1 opened"]
        assert stage.dependencies.config.rest.port == 1


async def test_a_way_in_that_cannot_be_opened_fails_readiness_until_a_configuration_opens_it():
    stage = Stage(rest=Rest(port=1))
    faults: dict[int, Exception] = {2: RuntimeError("no")}
    calls = with_way_in(stage, faults)
    async with stage:
        faults[1] = RuntimeError("the port is in use")
        with pytest.raises(RuntimeError):
            await stage.node.reconfigure(config(rest=Rest(port=2)))
        assert [check.ok for check in stage.node.readiness() if check.name == "rest"] == [False]
        del faults[1]
        await stage.node.reconfigure(config(rest=Rest(port=1)))
        assert calls[-1] == "1 opened"
