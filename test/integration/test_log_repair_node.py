"""What users see of a damaged log: the audit, a repair, and a node that starts again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from test_log_repair import damage_state, make_journals, start_and_read

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.adapters.journal_files import open_journal
from fractal_rm.adapters.log import projector
from fractal_rm.cli.main import cli
from fractal_rm.config.load import load
from fractal_rm.domain.facts import Accepted, RequestStarted
from fractal_rm.domain.flow import flow_version
from fractal_rm.domain.run import Run, fold
from fractal_rm.engine.ports import NewRun
from nodes import NodeProcess, wait_until


@pytest.fixture
def state(tmp_path):
    return make_journals(tmp_path / "made") / "state"


@pytest.fixture
def config_folder(tmp_path, state):
    """The configuration folder of a node with the state folder ``state``."""
    folder = tmp_path / "config_files"
    folder.mkdir()
    (folder / "comm.conf").write_text(
        json.dumps({"node": {"name": "n"}, "state": {"path": str(state)}})
    )
    return folder


def fractal_rm(config_folder: Path, *args: str):
    return CliRunner().invoke(
        cli, [*args, "--json", "--config", str(config_folder)], standalone_mode=False
    )


async def test_the_audit_reports_the_losses_of_a_damaged_log(state, config_folder):
    assert fractal_rm(config_folder, "audit").return_value == 0
    damage_state(state)
    result = fractal_rm(config_folder, "audit")
    assert result.return_value == 1
    assert "is damaged from byte" in str(json.loads(result.output)["damaged"])
    result = fractal_rm(config_folder, "journal", "repair")
    (report,) = json.loads(result.output)["journals"]
    assert (result.return_value, report["journal"]) == (1, "up")
    lost_runs = sum("run-" in each for each in report["gone"])
    assert lost_runs > 0
    for _ in range(2):
        result = fractal_rm(config_folder, "audit")
        audit = json.loads(result.output)
        assert (result.return_value, audit["balanced"], audit["damaged"]) == (0, True, {})
        lost_parts_of_log = 1
        assert audit["lost"] == {"up": {"places": lost_parts_of_log, "runs": lost_runs}}
        await start_and_read(state)


@pytest.fixture
def stopped_node(tmp_path, components):
    new_node = NodeProcess(tmp_path / "n", components=components.port, mode="api")
    yield new_node
    new_node.stop()


async def leave_open_runs(node: NodeProcess, run_ids: list[str]) -> None:
    """Write runs to a log, and do not close it. All runs except the last have begun a call."""
    flow = load(node.config, {}).config.flows["1"]
    now_ms = SystemClock.now_ms()
    journal = open_journal(
        node.state / "api.journal",
        limits=lambda: (1, 1),
        retention_ms=lambda: now_ms,
        on_lost=print,
    )
    await journal.open()
    for run_id in run_ids:
        fact = Accepted("1", flow_version(flow), msgspec.Raw(b'"p"'), "rest", placed=True)
        run = fold(Run(run_id, flow, now_ms), [fact])
        await journal.accept(NewRun(run_id, flow, now_ms, (fact,), run.state, ""))
    for run_id in run_ids[:-1]:
        journal.append(Run(run_id, flow, now_ms), RequestStarted(1), now_ms)
        await journal.durable
    journal.crash()


def states_by_run(node: NodeProcess) -> dict[str, str]:
    return {run["id"]: run["state"] for run in node.get("/v1/runs").body["runs"]}


async def test_after_a_repair_a_node_resumes_the_complete_runs(
    stopped_node, components, monkeypatch
):
    monkeypatch.setattr(projector, "PROJECT_EVERY_S", 600)
    run_before, lost_run, run_after = (f"01J0000000000000000000000{n}" for n in range(3))
    await leave_open_runs(stopped_node, [run_before, lost_run, run_after])
    (file,) = (stopped_node.state / "api.log").glob("[0-9]")
    content = file.read_bytes()
    damaged_at = content.index(f'"run","{lost_run}"'.encode())
    file.write_bytes(content[:damaged_at] + b"?" + content[damaged_at + 1 :])
    stopped_node.launch().process.wait(20)
    assert "fractal-rm journal repair" in stopped_node.log
    args = ["journal", "repair", "--config", str(stopped_node.config)]
    result = await asyncio.to_thread(CliRunner().invoke, cli, args, standalone_mode=False)
    assert result.return_value == 1
    assert f"segment 1 of the log (file {file.name}) is damaged from byte" in result.output
    stopped_node.start()
    final_states = {run_before: "unknown", lost_run: "dead", run_after: "succeeded"}
    wait_until(lambda: states_by_run(stopped_node) == final_states)
    assert [request.path for request in components.requests] == ["/endpoint1"] * 3
