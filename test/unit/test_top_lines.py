"""What `top` shows of a node."""

from __future__ import annotations

import msgspec
import pytest

from config_files import copy_shipped
from fractal_rm.cli.statuses import Processes
from fractal_rm.cli.top import config_problem
from fractal_rm.cli.top_lines import MINUTE_MS, Picture, top_lines
from fractal_rm.config.applied import store_applied
from fractal_rm.domain.node_status import NodeStatus
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import FailureGroup, Minute

NOW_MS = 1_795_960_920_000
STATUS = NodeStatus(
    node="1", journal="up", version="1", pid=1, started_ms=NOW_MS - 3 * MINUTE_MS, now_ms=NOW_MS,
    paused=False, draining=False, open_runs={}, in_flight=0, waiting=0, oldest_waiting_ms=None,
    flows=[], components=[], checks=[("serving", True, "serving")],
)  # fmt: skip
FAILURE = FailureGroup(
    State.FAILED, "2", "boiler", "status", "status #", 15, NOW_MS - 9 * MINUTE_MS, NOW_MS,
    "01M872C587MC9CTEMPDVW2QE67", "step 1: status 500",
)  # fmt: skip


def shown(*, failures=(), config_problem="", **status: object) -> str:
    minutes = [
        Minute(NOW_MS, "2", state, runs)
        for state, runs in ((State.ACCEPTED, 40), (State.SUCCEEDED, 19), (State.FAILED, 15))
    ]
    processes = Processes({"up": msgspec.structs.replace(STATUS, **status)}, {})
    picture = Picture(NOW_MS, processes, minutes, list(failures), "", config_problem)
    return "\n".join(top_lines(picture, 200))


def test_a_node_whose_runs_fail_is_not_called_well():
    text = shown(failures=[FAILURE])
    assert "well" not in text
    assert "serving, " not in text
    assert "serving  up 3 min" in text
    assert "✗ 15 of the 34 runs that ended in the last 20 min are in trouble" in text


def test_trouble_that_nobody_has_handled_says_since_when_and_differs_from_all_trouble():
    text = shown(failures=[FAILURE])
    assert "TROUBLE 20 MIN" in text
    [head] = [line for line in text.split("\n") if "NOT HANDLED" in line]
    assert head.split()[:4] == ["NOT", "HANDLED", "FIRST", "LAST"]


def test_if_every_run_in_trouble_is_handled_this_is_said():
    text = shown()
    assert "no run in trouble needs attention" in text
    assert "NOT HANDLED" not in text


def test_a_node_that_drains_says_what_this_means():
    checks = [("serving", False, "drained by an operator")]
    text = shown(draining=True, checks=checks)
    assert "DRAINING: refuses new triggers  up" in text
    assert "NOT READY" not in text
    assert "PAUSED: begins no runs, DRAINING: refuses" in shown(
        paused=True, draining=True, checks=checks
    )
    assert "NOT READY: serving" in shown(checks=[("serving", False, "stopping")])


def test_files_with_errors_are_shown_with_the_configuration_that_is_used():
    text = shown(config_problem="flows.conf has 2 errors; the node uses configuration 5")
    assert "✗ config: flows.conf has 2 errors; the node uses configuration 5" in text
    assert "config:" not in shown()


@pytest.mark.parametrize("is_kept", [True, False])
def test_the_errors_of_the_files_are_counted_for_each_file(tmp_path, is_kept):
    folder = copy_shipped(tmp_path / "config")
    (folder / "flows.conf").write_text("1 first\nTO nothing x\nGET\nTO nowhere x\nGET\n")
    state = tmp_path / "kept"
    state.mkdir()
    if is_kept:
        assert store_applied(state, {"flows.conf": ""}, "start of up", NOW_MS) is not None
    used = "; the node uses configuration 1" if is_kept else ""
    assert config_problem(state, folder) == (
        f"flows.conf has 2 errors{used}. `fractal-rm check` shows the errors"
    )
