"""The commands that an operator reads with: on a running node, and on a dead state folder."""

from __future__ import annotations

import json
import unicodedata

import pytest

import programs
from components import Components
from nodes import NodeProcess, wait_until

# Moves the cursor, changes the title, reverses the direction, ends a line, and one more of each
# kind that a terminal acts on. JSON cannot contain a lone surrogate, but an argument can.
HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202egnp.exe\u2028\u200f\x7f\x9b31m\ufeff end"
LONG = "A" * 1_000_000


def run_command(*words: object):
    result = programs.run_text(*words)
    assert "Traceback" not in result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def components():
    server = Components()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def node(tmp_path_factory, components):
    """A running node: a run succeeded, one failed, and one got a hostile answer and payload."""
    node = NodeProcess(tmp_path_factory.mktemp("reading"), components=components.port, mode="api")
    node.start()
    node.trigger("1", Prefer="wait=30")
    components.answers["/endpoint2"] = (500, HOSTILE + LONG)
    node.trigger("2", payload={HOSTILE: HOSTILE + LONG[:90_000]}, Prefer="wait=30")
    yield node
    node.stop()


def _runs(node) -> list[dict]:
    text = run_command("runs", "list", "--json", "--config", node.config).stdout
    return json.loads(text)["runs"]


def _is_safe(text: str) -> bool:
    allowed = {"\n"}
    return all(
        each in allowed or unicodedata.category(each) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
        for each in text
    )


def test_why_without_a_run_tells_the_newest_run_in_trouble(node):
    failed = next(run for run in _runs(node) if run["state"] == "failed")
    result = run_command("runs", "why", "--config", node.config)
    assert f"run {failed['id']}  failed" in result.stdout
    assert "The component itself has an error" in result.stdout
    assert f"fractal-rm runs replay {failed['id']} --config {node.config}" in result.stdout
    by_prefix = run_command("runs", "why", failed["id"][:22].lower(), "--config", node.config)
    assert by_prefix.stdout == result.stdout
    story = json.loads(run_command("runs", "why", "--json", "--config", node.config).stdout)
    assert (story["run"], story["is_trouble"]) == (failed["id"], True)


COMMANDS = (
    "runs list", "runs list --json", "runs why RUN", "runs why RUN --json", "runs show RUN",
    "runs show RUN --json", "runs wait RUN", "dead list", "top --once", "top --json", "components",
    "components --json", "runs why NOTHING", "flows show NOTHING", "NOTHING", "dead show RUN",
    "runs list --state NOTHING",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_text_from_outside_never_reaches_a_terminal_as_it_is(node, command):
    failed = next(run for run in _runs(node) if run["state"] == "failed")
    words = [{"RUN": failed["id"], "NOTHING": HOSTILE}.get(word, word) for word in command.split()]
    result = run_command(*words, "--config", node.config)
    assert _is_safe(result.stdout + result.stderr)
    if "--json" not in words:
        assert max(map(len, (result.stdout + result.stderr).split("\n"))) < 8_000


def test_wait_ends_with_a_code_for_the_outcome(node, components):
    ended = {run["state"]: run["id"] for run in _runs(node)}
    assert run_command("runs", "wait", ended["succeeded"], "--config", node.config).returncode == 0
    both = ("runs", "wait", ended["succeeded"], ended["failed"], "--config", node.config)
    assert run_command(*both).returncode == 1


def test_a_flow_is_tried_on_the_running_node_with_an_earlier_payload(node):
    asks = run_command("flows", "try", "1", "--config", node.config)
    assert asks.returncode == 2
    assert "This starts a real run of flow 1" in asks.stderr
    result = run_command("flows", "try", "1", "--last", "1", "--yes", "--config", node.config)
    assert result.returncode == 0
    told = " ".join(result.stdout.split())
    assert "A try, in the browser or by the command `flows try`, started the run" in told
    bad = run_command("flows", "try", "1", "--payload", "{", "--yes", "--config", node.config)
    assert bad.returncode == 2


def test_show_has_the_steps_as_a_table(node):
    run = next(run for run in _runs(node) if run["state"] == "succeeded")
    text = run_command("runs", "show", run["id"], "--config", node.config).stdout
    assert "STEP  WHAT" in text
    assert "POST component1 1" in text


def test_components_and_top_show_where_runs_failed(node):
    line = next(
        line
        for line in run_command("components", "--config", node.config).stdout.split("\n")
        if "status 500" in line
    )
    assert line.startswith("component1")
    top = run_command("top", "--once", "--config", node.config).stdout
    assert "serving  up" in top
    assert "NOT HANDLED" in top


def test_the_way_back_to_an_earlier_configuration(node):
    folder = ("--config", node.config)
    wait_until(lambda: 'start of "api"' in run_command("config", "history", *folder).stdout)
    assert run_command("config", "diff", *folder).stdout.startswith("no difference: ")
    flows = node.config / "flows.conf"
    before = flows.read_text()
    flows.write_text(before + "\n77 new\nTO component1 1\nGET\n")
    wait_until(lambda: "changed files" in run_command("config", "history", *folder).stdout)
    same = run_command("config", "diff", *folder)
    assert same.returncode == 0
    newest, before_it = (json.loads(run_command("config", "history", "--json", *folder).stdout)[
        "configurations"][at]["number"] for at in (0, 1))  # fmt: skip
    assert f"`fractal-rm config diff {before_it}` shows what was changed last" in same.stdout
    flows.write_text(before + "TO nothing\n")
    assert "error[F1" in run_command("config", "diff", *folder).stdout
    refused = run_command("config", "rollback", *folder)
    assert refused.returncode == 4
    assert f"`fractal-rm config rollback {newest} --force`" in refused.stderr
    assert f"Without {newest}, the command goes back to configuration {before_it}" in refused.stderr
    assert flows.read_text() != before
    assert run_command("config", "rollback", "--force", *folder).returncode == 0
    assert flows.read_text() == before
    assert "rollback to" in run_command("config", "history", *folder).stdout
    (node.config / "comm.conf").rename(node.config / "comm.away")
    try:
        assert run_command("config", "rollback", "1", "--force", *folder).returncode == 0
        assert (node.config / "comm.conf").stat().st_mode & 0o777 == 0o600
    finally:
        (node.config / "comm.away").replace(node.config / "comm.conf")
    kept = node.config.parent / "state" / "configs"
    assert {file.stat().st_mode & 0o777 for file in kept.iterdir()} == {0o600}


def test_a_dead_state_folder_is_read_without_a_node(node):
    node.stop()
    try:
        for words in (("runs", "why"), ("components",), ("top", "--once"), ("dead", "list"),
                      ("config", "history"), ("config", "diff")):  # fmt: skip
            assert run_command(*words, "--config", node.config).returncode in (0, 1), words
        top = run_command("top", "--once", "--config", node.config).stdout
        assert "no node runs" in top
        refused = run_command("flows", "try", "1", "--yes", "--config", node.config)
        assert refused.returncode == 4
        assert "no node runs" in refused.stderr
    finally:
        node.start()
