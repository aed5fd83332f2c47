"""Real nodes, whose wall clock is set or whose machine is suspended while they run."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from fractal_rm.domain.state import State
from nodes import NodeProcess, wait_until
from wall_clock import FakeWallClock

DAY_S = 86_400
FLOWS = """\
2
DEADLINE 30m
TO component1 1
GET

3
TO component1 2
GET
"""


@pytest.fixture
def node(tmp_path, components):
    new_node = NodeProcess(tmp_path / "n", components=components.port, mode="api")
    (new_node.config / "flows.conf").write_text(FLOWS)
    yield new_node
    if new_node.process is not None and new_node.process.poll() is None:
        new_node.kill()


def clock_check(node: NodeProcess) -> str:
    """The text of the check `clock` in /readyz. Asserts that the node is ready."""
    status, _, health = node.get("/readyz")
    assert status == 200
    return next(check["text"] for check in health["checks"] if check["name"] == "clock")


def test_setting_the_wall_clock_affects_no_run_and_no_trigger_id(node, components, tmp_path):
    wall = FakeWallClock(tmp_path)
    node.command_prefix = wall.command
    components.answers["/endpoint1"] = "hang"
    node.edit("components", component1__config__timeout_s=3_600)
    node.start()
    hanging_run = node.trigger("2").body["run"]
    runs = [hanging_run]
    changes = node.log.count("wall_clock_set")
    for by_s in (10 * DAY_S, 50 * 365 * DAY_S, -40 * 365 * DAY_S):
        wall.set(f"{by_s:+}")
        changes += 1
        wait_until(lambda changes=changes: node.log.count("wall_clock_set") == changes)
        same_key_runs = [
            node.trigger("3", Idempotency_Key="the same").body["run"] for _ in range(2)
        ]
        assert same_key_runs[0] == same_key_runs[1]
        runs.append(node.trigger("3", by_s).body["run"])
    assert [run.id for run in reversed(node.runs()) if run.id in runs] == runs
    runs_of_3 = [run for run in node.runs() if run.flow == "3"]
    assert len(runs_of_3) == len(runs)  # all triggers with the key "the same" became one run
    assert "before the release of this program" in clock_check(node)
    assert node.get(f"/v1/runs/{hanging_run}").body["summary"]["state"] not in {"expired", "failed"}
    node.kill()
    wall.set("+3600")
    components.answers["/endpoint1"] = (200, "done")
    node.start()
    wait_until(lambda: node.history.run(hanging_run).summary.state is State.SUCCEEDED)
    assert node.trigger("3", Idempotency_Key="the same").body["run"] == same_key_runs[0]
    assert node.trigger("3").body["run"] > max(runs)
    assert node.problems() == []


@pytest.mark.parametrize("case", ["other boot", "file is lost"])
def test_a_trigger_id_is_known_after_a_start_with_a_clock_fifty_years_ahead(node, tmp_path, case):
    wall = FakeWallClock(tmp_path)
    node.command_prefix = wall.command
    node.start()
    run = node.trigger("3", Idempotency_Key="the same").body["run"]
    wait_until(lambda: node.history.run(run).summary.state is State.SUCCEEDED)
    node.kill()
    file = node.state / "clock.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"boot": case}))
    if case == "file is lost":
        file.unlink()
    wall.set(f"+{50 * 365 * DAY_S}")
    node.start()
    assert node.trigger("3", Idempotency_Key="the same").body["run"] == run


def test_time_in_suspend_counts_and_the_wall_clock_does_not(node):
    in_suspended_namespace = ["unshare", "--time", "--boottime", "2700"]
    awake_s, _ = _uptime([])
    slept = _uptime(in_suspended_namespace)
    if slept is None or slept[0] < awake_s + 2_700:
        pytest.skip("needs the permission to make time namespaces")
    node.state.mkdir()
    (node.state / "control.json").write_text(json.dumps({"paused": True}))
    node.start()
    late, other = (node.trigger(flow).body["run"] for flow in ("2", "3"))
    node.kill()
    (node.state / "control.json").unlink()
    node.command_prefix = in_suspended_namespace
    node.start()
    wait_until(lambda: node.history.run(other).summary.state is State.SUCCEEDED)
    wait_until(lambda: node.history.run(late).summary.state is State.EXPIRED)
    assert node.history.run(late).summary.accepted_ms > (time.time() - 600) * 1000


def _uptime(prefix: list[str]) -> tuple[float, float] | None:
    """The seconds since boot, and the idle seconds of all processors. None if it fails."""
    result = subprocess.run([*prefix, "cat", "/proc/uptime"], capture_output=True, text=True)
    if result.returncode != 0:
        return None
    up_s, idle_s = map(float, result.stdout.split())
    return up_s, idle_s
