"""When a process of a node has ended, the next process of this node resumes its open runs.

The two processes may have different modes: `mqtt`, `api` or `up`.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing

from click.testing import CliRunner

from fractal_rm.cli.exits import EXIT_PROBLEMS
from fractal_rm.cli.main import cli
from fractal_rm.domain.state import State
from nodes import NodeProcess, wait_until


def audit(node: NodeProcess):
    return CliRunner().invoke(cli, ["audit", "--config", str(node.config)], standalone_mode=False)


def count_requests(components, path: str) -> int:
    return sum(request.path == path for request in components.requests)


def kill_with_open_runs(node: NodeProcess, components, *flows: str, mode: str = "api") -> list[str]:
    """Send triggers, and kill the node while their runs make calls. Returns the run ids."""
    components.answers["/endpoint2"] = "hang"
    node.mode = mode
    node.start()
    run_ids = [node.trigger(flow).body["run"] for flow in flows]
    wait_until(lambda: count_requests(components, "/endpoint2") == len(flows))
    node.kill()
    components.answers.clear()
    return run_ids


def test_in_every_mode_the_next_process_resumes_runs_and_knows_trigger_ids(make, components):
    components.answers["/endpoint2"] = "hang"
    node = make().start()
    key = {"Idempotency_Key": "k"}
    _, _, finished_run = node.trigger("1", Prefer="wait=30", **key)
    _, _, accepted = node.trigger("2")
    wait_until(lambda: count_requests(components, "/endpoint2") == 1)
    node.edit("comm", recovery__max_attempts=9)
    for mode, earlier_mode in (("up", "api"), ("mqtt", "up")):
        node.kill()
        node.mode = mode
        node.start()
        wait_until(
            lambda earlier_mode=earlier_mode: (
                f"runs_adopted journal={earlier_mode} runs=1" in node.log
            )
        )
        assert [(run.id, run.journal) for run in node.runs() if not run.state.final] == [
            (accepted["run"], mode)
        ]
        assert audit(node).return_value == 0
    node.kill()
    components.answers.clear()
    node.mode = "up"
    node.start()
    wait_until(lambda: len(node.runs(State.SUCCEEDED)) == 2)
    assert node.trigger("1", **key).body["run"] == finished_run["run"]
    assert len(node.runs()) == 2
    assert node.problems() == []
    assert audit(node).return_value == 0


def test_a_running_process_adopts_the_open_runs_of_a_process_that_ends(make, components):
    components.answers["/endpoint2"] = "hang"
    node, other = make("n"), make("other", mode="up")
    other.edit("comm", state__path=str(node.state))
    node.start()
    _, _, accepted = node.trigger("2")
    other.start()
    node.kill()
    components.answers.clear()
    wait_until(lambda: "runs_adopted journal=api runs=1" in other.log)
    wait_until(lambda: [run.id for run in node.runs(State.SUCCEEDED)] == [accepted["run"]])
    assert "runs_left" not in other.log


def test_a_trigger_id_that_another_process_just_accepted_is_a_duplicate(make, components):
    node, other = make("n"), make("other", mode="up")
    other.edit("comm", state__path=str(node.state))
    node.start()
    other.start()
    for n in range(20):
        first, second = (node, other) if n % 2 else (other, node)
        _, _, accepted = first.trigger("2", Idempotency_Key=f"k{n}")
        assert second.trigger("2", Idempotency_Key=f"k{n}").body["run"] == accepted["run"]
        assert second.trigger("1", Idempotency_Key=f"k{n}").status == 422
    wait_until(lambda: len(node.runs(State.SUCCEEDED)) == 20)


def test_the_processes_api_and_mqtt_of_a_node_do_not_adopt_runs_from_each_other(make, components):
    node, mqtt = make("n"), make("mqtt", mode="mqtt")
    mqtt.edit("comm", state__path=str(node.state))
    (up_run,) = kill_with_open_runs(node, components, "2", mode="up")
    (node.state / "up.journal").rename(node.state / "aside")
    components.requests.clear()
    (api_run,) = kill_with_open_runs(node, components, "2")
    (node.state / "aside").rename(node.state / "up.journal")
    mqtt.start()
    wait_until(lambda: "runs_adopted journal=up runs=1" in mqtt.log)
    wait_until(lambda: [run.id for run in node.runs(State.SUCCEEDED)] == [up_run])
    assert "journal=api" not in mqtt.log
    node.start()
    wait_until(lambda: {run.id for run in node.runs(State.SUCCEEDED)} == {up_run, api_run})


def test_a_process_without_mqtt_does_not_adopt_runs_that_publish_and_reports_them(make, components):
    node = make()
    with (node.config / "flows.conf").open("a") as flows:
        flows.write('\n3\nTO component1 2\nGET\nPUBLISH "a"\n')
    plain, publishing = kill_with_open_runs(node, components, "2", "3", mode="up")
    node.mode = "api"
    node.start()
    wait_until(lambda: "runs_left journal=up runs=1" in node.log)
    wait_until(lambda: [run.id for run in node.runs(State.SUCCEEDED)] == [plain])
    result = audit(node)
    assert result.return_value == EXIT_PROBLEMS
    assert f"run {publishing} is not handled: restart its node (`fractal-rm up`)" in result.output


def test_a_process_starts_even_if_a_journal_cannot_be_adopted(make, components):
    node = make()
    (run_id,) = kill_with_open_runs(node, components, "2")
    change_accepted_count(node, +1)
    (node.state / "folder.journal").mkdir()
    node.mode = "up"
    node.start()
    wait_until(lambda: "runs_left journal=api" in node.log)
    assert "should have 2 open runs, but has 1" in node.log
    assert "runs_left journal=folder" in node.log
    assert node.trigger("1", Prefer="wait=30").status == 200
    assert node.log.count("runs_left journal=api") == 1
    change_accepted_count(node, -1)
    wait_until(lambda: "runs_adopted journal=api runs=1" in node.log)
    (node.state / "folder.journal").rmdir()
    wait_until(lambda: run_id in [run.id for run in node.runs(State.SUCCEEDED)])


def change_accepted_count(node: NodeProcess, by: int) -> None:
    """Change the stored number of accepted runs. With a wrong number, the journal is damaged."""
    with closing(sqlite3.connect(node.state / "api.journal")) as db, db:
        db.execute("UPDATE meta SET value = value + ? WHERE name = 'accepted'", (by,))
