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
    result = programs.run_text(*words)
    assert "Traceback" not in result.stdout + result.stderr
    return result


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
    output = run_command("runs", "list", "--json", "--config", node.config).stdout
    return [run["id"] for run in json.loads(output)["runs"]]


def test_every_shipped_flow_has_test_cases_and_all_cases_pass():
    result = run_command("flows", "test", "--config", SHIPPED)
    assert (result.returncode, result.stderr) == (0, "")
    *lines, summary = result.stdout.splitlines()
    assert all(line.startswith("passed  ") for line in lines)
    assert summary == f"{len(lines)} cases: {len(lines)} passed"
    cases = json.loads(run_command("flows", "test", "--json", "--config", SHIPPED).stdout)["cases"]
    assert {case["flow"] for case in cases} == {"1", "2", "3"}


def test_the_command_flows_test_creates_no_state_folder(config):
    assert run_command("flows", "test", "--config", config).returncode == 0
    assert [path.name for path in config.parent.iterdir()] == ["config_files"]


def test_a_failed_case_is_shown_with_its_differences(config):
    text = (config / CASES).read_text().replace("from the trigger", "from elsewhere", 1)
    (config / CASES).write_text(text)
    result = run_command("flows", "test", "payload is sent", "--config", config)
    assert result.returncode == 1
    line = text[: text.index('name = "the payload is sent')].count("\n")
    body_line = text[: text.index('"from component1", "from the trigger"')].count("\n") - 2
    assert result.stdout.splitlines() == [
        f"FAILED  the payload is sent with the first answer ({CASES}:{line})",
        f"  request 2, body (line {body_line})",
        '    expected  {"payload":["from component1","from the trigger"]}',
        '    got       {"payload":["from component1","from elsewhere"]}',
        "                                                  ^",
        "1 case: 0 passed, 1 failed",
    ]
    result = run_command("flows", "test", "payload is sent", "--json", "--config", config)
    (case,) = json.loads(result.stdout)["cases"]
    assert (case["passed"], case["line"], len(case["differences"])) == (False, line, 1)


def test_no_case_is_run_if_the_file_of_the_cases_has_mistakes(config):
    (config / CASES).write_text('[[case]]\nname = "x"\nflow = 1\nrepyl = 1\n')
    result = run_command("flows", "test", "--config", config)
    assert (result.returncode, result.stdout) == (3, "")
    assert f"{CASES}:4:1: error[C203]" in result.stderr
    assert 'help: did you mean "reply"?' in result.stderr


@pytest.mark.parametrize(
    ("content", "code", "error"),
    [(None, 3, "error[C201]"), (b"\xff", 3, "error[T301]: byte 0 is not UTF-8")],
)
def test_an_unreadable_file_of_cases_is_an_error(config, content, code, error):
    (config / CASES).unlink()
    if content is not None:
        (config / CASES).write_bytes(content)
    result = run_command("flows", "test", "--config", config)
    assert result.returncode == code
    assert error in result.stderr


def test_the_command_flows_test_fails_if_no_case_has_the_given_name(config):
    result = run_command("flows", "test", "nosuch", "--config", config)
    assert result.returncode == 4
    assert 'no case has "nosuch" in its name' in result.stderr


def test_the_cases_of_recorded_runs_pass(node):
    into = node.config / CASES
    into.unlink(missing_ok=True)
    for number, run in enumerate(runs_of(node)):
        result = run_command("runs", "record", run, "--into", into, "--name", f"case {number}",
                  "--config", node.config)  # fmt: skip
        assert (result.returncode, result.stderr) == (0, "")
    result = run_command("flows", "test", "--config", node.config)
    assert result.stdout.splitlines() == [
        *(f"passed  case {number}" for number in range(4)), "4 cases: 4 passed",
    ]  # fmt: skip
    duplicate = run_command("runs", "record", runs_of(node)[0], "--into", into, "--name", "case 0",
               "--config", node.config)  # fmt: skip
    assert duplicate.returncode == 4
    assert '"case 0"' in duplicate.stderr


def test_a_recorded_case_is_printed_as_a_complete_file(node, tmp_path):
    run = runs_of(node)[0]
    result = run_command("runs", "record", run[:24], "--config", node.config)
    if result.returncode == 4:  # another run of the same millisecond has this prefix, too
        result = run_command("runs", "record", run, "--config", node.config)
    assert result.returncode == 0
    (node.config / CASES).write_text(result.stdout)
    assert run_command("flows", "test", "--config", node.config).returncode == 0


def test_an_unknown_run_cannot_be_recorded(node):
    result = run_command("runs", "record", "NOSUCH", "--config", node.config)
    assert result.returncode == 4
    assert "no run NOSUCH" in result.stderr
