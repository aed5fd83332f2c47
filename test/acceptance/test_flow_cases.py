"""The commands `flows test` and `runs record`."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import programs
from nodes import FLOWS, NodeProcess

SHIPPED = Path(__file__).parents[2] / "runtime_manager" / "config_files"
CASES = "flows.cases.toml"
PARENT = """
3 of every kind
TO component1 1
POST JSON [1, 2]
  AS numbers
POST item
  FOREACH payload
  LIMIT 2
RUN 1 numbers
WAIT 20ms
REPLY result3
"""


def run_command(*words: object) -> subprocess.CompletedProcess[str]:
    """Run `fractal-rm` with arguments. Asserts that the output has no traceback."""
    done = programs.run_text(*words)
    assert "Traceback" not in done.stdout + done.stderr
    return done


@pytest.fixture
def config(tmp_path) -> Path:
    shutil.copytree(SHIPPED, tmp_path / "config_files")
    return tmp_path / "config_files"


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A stopped node with runs that succeeded and runs that failed."""
    from components import Components

    components = Components()
    new_node = NodeProcess(tmp_path_factory.mktemp("cases"), components=components.port, mode="api")
    (new_node.config / "flows.conf").write_text(FLOWS + PARENT)
    new_node.start()
    new_node.trigger("1", Prefer="wait=30")
    new_node.trigger("3", [1, 2], Prefer="wait=30")
    components.answers["/endpoint2"] = (500, "no")
    new_node.trigger("2", Prefer="wait=30")
    new_node.stop()
    components.stop()
    return new_node


def runs_of(node) -> list[str]:
    """The ids of the runs in the history of a node."""
    listed = run_command("runs", "list", "--json", "--config", node.config).stdout
    return [run["id"] for run in json.loads(listed)["runs"]]


def test_every_shipped_flow_has_cases_and_they_pass():
    done = run_command("flows", "test", "--config", SHIPPED)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, summary = done.stdout.splitlines()
    assert all(line.startswith("passed  ") for line in lines)
    assert summary == f"{len(lines)} cases: {len(lines)} passed"
    cases = json.loads(run_command("flows", "test", "--json", "--config", SHIPPED).stdout)["cases"]
    assert {case["flow"] for case in cases} == {"1", "2", "3"}


def test_flows_test_creates_no_state_folder(config):
    assert run_command("flows", "test", "--config", config).returncode == 0
    assert [path.name for path in config.parent.iterdir()] == ["config_files"]


def test_a_failed_case_is_shown_with_its_differences(config):
    text = (config / CASES).read_text().replace("from the trigger", "from elsewhere", 1)
    (config / CASES).write_text(text)
    done = run_command("flows", "test", "payload is sent", "--config", config)
    assert done.returncode == 1
    line = text[: text.index('name = "the payload is sent')].count("\n")
    wanted = text[: text.index('"from component1", "from the trigger"')].count("\n") - 2
    assert done.stdout.splitlines() == [
        f"FAILED  the payload is sent with the first answer ({CASES}:{line})",
        f"  request 2, body (line {wanted})",
        '    expected  {"payload":["from component1","from the trigger"]}',
        '    got       {"payload":["from component1","from elsewhere"]}',
        "                                                  ^",
        "1 case: 0 passed, 1 failed",
    ]
    done = run_command("flows", "test", "payload is sent", "--json", "--config", config)
    (case,) = json.loads(done.stdout)["cases"]
    assert (case["passed"], case["line"], len(case["differences"])) == (False, line, 1)


def test_cases_are_not_run_if_their_file_has_mistakes(config):
    (config / CASES).write_text('[[case]]\nname = "x"\nflow = 1\nrepyl = 1\n')
    done = run_command("flows", "test", "--config", config)
    assert (done.returncode, done.stdout) == (3, "")
    assert f"{CASES}:4:1: error[C203]" in done.stderr
    assert 'help: did you mean "reply"?' in done.stderr


@pytest.mark.parametrize(
    ("content", "code", "error"),
    [(None, 3, "error[C201]"), (b"\xff", 3, "error[T301]: byte 0 is not UTF-8")],
)
def test_a_file_that_cannot_be_read_is_an_error(config, content, code, error):
    (config / CASES).unlink()
    if content is not None:
        (config / CASES).write_bytes(content)
    done = run_command("flows", "test", "--config", config)
    assert done.returncode == code
    assert error in done.stderr


def test_flows_test_with_a_name_that_no_case_has_is_an_error(config):
    done = run_command("flows", "test", "nosuch", "--config", config)
    assert done.returncode == 4
    assert 'no case has "nosuch" in its name' in done.stderr


def test_the_cases_of_recorded_runs_pass(node):
    into = node.config / CASES
    into.unlink(missing_ok=True)
    for number, run in enumerate(runs_of(node)):
        done = run_command("runs", "record", run, "--into", into, "--name", f"case {number}",
                  "--config", node.config)  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
    done = run_command("flows", "test", "--config", node.config)
    assert done.stdout.splitlines() == [
        *(f"passed  case {number}" for number in range(4)), "4 cases: 4 passed",
    ]  # fmt: skip
    again = run_command("runs", "record", runs_of(node)[0], "--into", into, "--name", "case 0",
               "--config", node.config)  # fmt: skip
    assert again.returncode == 4
    assert '"case 0"' in again.stderr


def test_a_recorded_case_is_printed_as_a_complete_file(node, tmp_path):
    run = runs_of(node)[0]
    done = run_command("runs", "record", run[:24], "--config", node.config)
    if done.returncode == 4:  # two ids begin with these characters: runs of the same millisecond
        done = run_command("runs", "record", run, "--config", node.config)
    assert done.returncode == 0
    (node.config / CASES).write_text(done.stdout)
    assert run_command("flows", "test", "--config", node.config).returncode == 0


def test_an_unknown_run_cannot_be_recorded(node):
    done = run_command("runs", "record", "NOSUCH", "--config", node.config)
    assert done.returncode == 4
    assert "no run NOSUCH" in done.stderr
