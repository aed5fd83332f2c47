"""A real node: what needs attention is shown, and what was handled is not shown again."""

from __future__ import annotations

import getpass
import json

import pytest

from nodes import wait_until

FLOWS = """\
1 shoot
TO component1 1
GET
  TIMEOUT 3s
  RETRY 2 EVERY 1s

2 weigh
TO component1 2
GET
"""


@pytest.fixture
def troubled(make, components):
    """A node with two failed runs of flow 2."""
    components.answers["/endpoint2"] = (500, "broken")
    node = make(mode="api")
    (node.config / "flows.conf").write_text(FLOWS)
    node.start()
    node.failed = [node.trigger("2", Prefer="wait=30").body["run"] for _ in range(2)]
    components.answers["/endpoint2"] = (200, "mended")
    return node


def line_of(text: str, begin: str) -> str:
    return next(line for line in text.split("\n") if line.startswith(begin))


def test_handled_runs_are_marked_in_lists_and_no_longer_need_attention(troubled):
    first, second = troubled.failed
    several = ("runs", "list", "--state", "failed", "--state", "unknown")
    assert [line.split()[0] for line in troubled.command(*several).stdout.split("\n")[1:3]] == [
        second, first,
    ]  # fmt: skip
    assert f"run {second}  failed" in troubled.command("runs", "why").stdout
    assert "component1" in troubled.command("components").stdout

    assert troubled.command("runs", "discard", second).returncode == 0
    assert f"run {first}  failed" in troubled.command("runs", "why").stdout
    repeated = troubled.command("runs", "repeat", first)
    assert repeated.returncode == 0, repeated.stderr
    [new_run] = [each.id for each in troubled.history.replays_of(first)]
    wait_until(lambda: troubled.history.run(new_run).summary.state.final)

    listed = troubled.command(*several).stdout
    assert "failed, discarded" in line_of(listed, second)
    assert "failed, repeated" in line_of(listed, first)
    assert troubled.command("runs", "why").stdout == "No run needs attention.\n"
    top = troubled.command("top", "--once").stdout
    assert "no run in trouble needs attention (last 24 hours)" in top
    share = "✗ 2 of the 3 runs that ended in the last 20 min are in trouble"
    wait_until(lambda: share in troubled.command("top", "--once").stdout)


def test_a_component_shows_since_when_runs_fail_there_and_of_which_flow(troubled):
    text = troubled.command("components").stdout
    head, line = text.split("\n")[0], line_of(text, "component1")
    assert head.split()[-4:] == ["FAILED", "FIRST", "LAST", "WHY"]
    assert "flow 2: " in line
    [shown] = [
        each
        for each in json.loads(troubled.command("components", "--json").stdout)["components"]
        if each["component"] == "component1"
    ]
    oldest = troubled.history.run(troubled.failed[0]).summary
    assert shown["first_failure_ms"] == oldest.accepted_ms


def test_runs_are_found_by_how_long_they_took(troubled):
    every = json.loads(troubled.command("runs", "list", "--json").stdout)["runs"]
    took = {run["id"]: run["settled_ms"] - run["accepted_ms"] for run in every}
    longest = max(1, *took.values())
    expected = {run for run, ms in took.items() if ms >= longest}
    listed = json.loads(
        troubled.command("runs", "list", "--slower", f"{longest}ms", "--json").stdout
    )
    assert {run["id"] for run in listed["runs"]} == expected
    by_http = troubled.get(f"/v1/runs?slower_ms={longest}").body["runs"]
    assert {run["id"] for run in by_http} == expected
    assert troubled.command("runs", "list", "--slower", "24h").stdout == "no runs\n"
    assert troubled.get("/v1/runs?slower_ms=86400000").body["runs"] == []


def test_a_list_of_flows_shows_which_are_paused_and_a_flow_shows_the_options_of_its_steps(make):
    node = make()
    (node.config / "flows.conf").write_text(FLOWS)
    node.command("flows", "pause", "2")
    listed = node.command("flows", "list").stdout
    assert "PAUSED BY" in listed
    assert getpass.getuser() in line_of(listed, "2 ")
    assert getpass.getuser() not in line_of(listed, "1 ")
    as_json = json.loads(node.command("flows", "list", "--json").stdout)
    assert list(as_json["paused_flows"]) == ["2"]
    assert "TIMEOUT 3s; RETRY 2 EVERY 1s" in node.command("flows", "show", "1").stdout
    (node.state / "control.json").write_text("{")
    assert "which flows are paused is not known" in node.command("flows", "list").stderr
    node.command("resume")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("runs", "retry", "A"), "there is no command `runs retry`: use `runs replay`"),
        (("runs", "again", "A"), "use `runs replay`"),
        (("runs", "dismiss", "A"), "use `runs discard`"),
        (("pause",), "`pause --all` pauses the whole node, `flows pause FLOW` one flow"),
    ],
)
def test_a_word_that_is_no_command_gets_a_hint(make, words, text):
    done = make().command(*words)
    assert done.returncode == 2
    assert text in done.stderr
