"""An open run that nothing handles is reported by readyz, in the log, and by `audit`."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from engine_stage import Stage, flows, until
from fractal_rm.cli.exits import EXIT_PROBLEMS
from fractal_rm.cli.main import cli
from fractal_rm.config.unhandled_runs import read_unhandled_runs, write_unhandled_runs
from fractal_rm.domain.state import State
from nodes import NodeProcess, wait_until

FLOWS = """\
1
TO a 1
GET

2
LIMIT 1
TO slow 1
GET

3
WAIT 1h
TO a 1
GET

4
RUN 2
"""


def runs_check(stage: Stage):
    return next(check for check in stage.node.readiness() if check.name == "runs")


def unhandled_runs(stage: Stage) -> frozenset[str]:
    """The ids of unhandled runs. A run is reported only if two calls find the run."""
    stage.node.find_unhandled_runs()
    return stage.node.find_unhandled_runs()


async def test_a_run_that_is_queued_or_in_flight_or_waits_counts_as_handled():
    async with Stage(flows=flows(FLOWS)) as stage:
        release = stage.block_calls("slow/1")
        in_flight = await stage.send("2")
        await until(stage.called_endpoints)
        await stage.send("2")  # queued
        waiting = await stage.send("3")
        parent = await stage.send("4")  # waits for a permit of flow 2
        await until(lambda: "WaitStarted" in stage.facts(waiting.run))
        assert unhandled_runs(stage) == frozenset()
        assert runs_check(stage).ok
        release.set()
        await until(lambda: stage.node.unfinished == 1)
        assert stage.state(in_flight.run).final
        assert stage.state(parent.run).final
        assert unhandled_runs(stage) == frozenset()


async def test_a_run_whose_worker_task_has_failed_is_reported():
    async with Stage() as stage:

        async def fail(*_):
            raise OSError("unexpected")

        stage.node.lifecycle.settle = fail
        accepted = await stage.send("2")
        await until(lambda: stage.called_endpoints() == ["b/2"])
        await until(lambda: stage.load.in_flight == 0)
        # Only the second call that finds a run reports it.
        assert stage.node.find_unhandled_runs() == frozenset()
        assert stage.node.find_unhandled_runs() == {accepted.run}
        check = runs_check(stage)
        assert not check.ok
        assert check.text == f"1 open runs are not handled (restart the node): {accepted.run}"
        assert unhandled_runs(stage) == {accepted.run}
        assert stage.telemetry.events.count("run_not_handled") == 1


@pytest.fixture
def node(tmp_path, components):
    new_node = NodeProcess(tmp_path / "n", components=components.port, mode="api")
    yield new_node
    if new_node.process is not None and new_node.process.poll() is None:
        new_node.process.kill()
        new_node.process.wait()


def audit(node: NodeProcess):
    return CliRunner().invoke(cli, ["audit", "--config", str(node.config)], standalone_mode=False)


def test_audit_shows_a_run_that_its_node_reported_as_unhandled(node, components):
    components.answers["/endpoint2"] = "hang"
    node.start()
    _, _, accepted = node.trigger("2")
    assert audit(node).return_value == 0
    write_unhandled_runs(node.state, "api", [accepted["run"], "01J00000000000000000000009"])
    result = audit(node)
    assert result.return_value == EXIT_PROBLEMS
    assert f"run {accepted['run']} is not handled: restart its node" in result.output
    assert "01J00000000000000000000009" not in result.output
    node.kill()
    components.answers.clear()
    node.start()
    wait_until(lambda: node.runs(State.SUCCEEDED))
    assert audit(node).return_value == 0
    wait_until(lambda: read_unhandled_runs(node.state, "api") == [])


def test_audit_shows_some_of_many_unhandled_runs_and_reads_the_journal_once(
    node, components, monkeypatch
):
    components.answers["/endpoint2"] = "hang"
    node.start()
    write_unhandled_runs(node.state, "api", [node.trigger("2").body["run"] for _ in range(23)])
    read_one_by_one = []
    monkeypatch.setattr("fractal_rm.adapters.sqlite.SqliteHistory.run", read_one_by_one.append)
    result = audit(node)
    assert result.return_value == EXIT_PROBLEMS
    assert result.output.count("is not handled") == 20
    assert "and 3 more runs of api: --json lists all of them" in result.output
    assert read_one_by_one == []
