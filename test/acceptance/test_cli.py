"""The command line, as a person and as a script use it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nodes import NodeProcess, wait_until

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "runtime_manager" / "config_files"


def rm(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fractal_rm.cli.main", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60)
    assert "Traceback" not in done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A node that has run something, and has stopped."""
    from components import Components

    components = Components()
    made = NodeProcess(tmp_path_factory.mktemp("cli"), components=components.port, mode="api")
    made.start()
    made.trigger("1", Prefer="wait=30", Idempotency_Key="k")
    made.trigger("1", Idempotency_Key="k")
    components.answers["/endpoint2"] = (500, "no")
    made.trigger("2", Prefer="wait=30")
    made.stop()
    components.end()
    return made


COMMANDS = "up mqtt api check demo pause resume runs flows journal audit".split()  # noqa: SIM905


def test_help_names_every_command_and_the_exit_codes():
    text = rm("--help").stdout
    assert all(f"  {command} " in text for command in COMMANDS)
    assert "Exit codes" in text
    for command in COMMANDS:
        assert rm(command, "--help").returncode == 0


def test_check_says_what_is_well_and_what_is_not(tmp_path):
    done = rm("check", SHIPPED)
    assert (done.returncode, done.stdout) == (
        0, f"{SHIPPED}: well. 3 flows, 3 components, 3 nodes\n",
    )  # fmt: skip
    shutil.copytree(SHIPPED, tmp_path / "config_files")
    (tmp_path / "config_files" / "flows.conf").write_text("1\nTO compnent1 1\nGET\n")
    done = rm("check", cwd=tmp_path)
    assert done.returncode == 1
    assert "flows.conf:2:4: error[F104]" in done.stdout
    assert 'help: did you mean "component1"?' in done.stdout
    found = json.loads(rm("check", "--json", cwd=tmp_path).stdout)["findings"]
    assert [(each["code"], each["place"]["line"]) for each in found] == [("F104", 2)]


def test_runs_are_listed_and_shown(node):
    text = rm("runs", "list", "--config", node.config).stdout
    assert text.splitlines()[0].split() == [
        "RUN", "ACCEPTED", "FLOW", "BY", "WHERE", "STATE", "MS", "WHY",
    ]  # fmt: skip
    assert "step 1, component1 2: status 500: no" in text
    (failed,) = json.loads(
        rm("runs", "list", "--state", "failed", "--json", "--config", node.config).stdout
    )["runs"]
    shown = rm("runs", "show", failed["id"], "--config", node.config).stdout
    assert shown.startswith(f"run {failed['id']}: failed, step 1")
    assert "step-failed" in shown
    detail = json.loads(rm("runs", "show", failed["id"], "--json", "--config", node.config).stdout)
    assert detail["summary"]["state"] == "failed"


def test_flows_are_listed_and_shown(node):
    assert "1     1     3" in rm("flows", "list", "--config", node.config).stdout
    shown = rm("flows", "show", "1", "--config", node.config).stdout
    assert "result1 result2" in shown
    assert json.loads(rm("flows", "show", "1", "--json", "--config", node.config).stdout)["steps"]


def test_the_accounts_balance(node):
    done = rm("audit", "--json", "--config", node.config)
    audit = json.loads(done.stdout)
    assert (done.returncode, audit["balanced"]) == (0, True)
    first = audit["accounts"][0]
    assert (first["flow"], first["received"], first["duplicates"]) == ("1", 2, 1)


def test_accounts_that_do_not_balance_are_said(node, tmp_path):
    import sqlite3

    shutil.copytree(node.folder, tmp_path / "copy")
    with sqlite3.connect(tmp_path / "copy" / "state" / "api.journal") as db:
        db.execute("DELETE FROM runs WHERE flow = '2'")
    done = rm("audit", "--config", tmp_path / "copy" / "config_files")
    assert done.returncode == 1
    assert "NO" in done.stdout


def test_a_journal_is_checked(node):
    done = rm("journal", "check", "--config", node.config)
    assert (done.returncode, done.stdout) == (0, "api: well, 2 runs (0 unfinished), 10 facts\n")
    assert json.loads(rm("journal", "check", "--json", "--config", node.config).stdout)["well"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["chek"], 2, "There is: up, mqtt"),
        (["pause"], 2, "--all"),
        (["runs", "show", "NOSUCH"], 4, "no run NOSUCH"),
        (["flows", "show", "11"], 4, "flows.conf has no flow 11"),
        (["runs", "list", "--state", "happy"], 2, "is not one of"),
    ],
)
def test_a_mistake_is_answered_with_a_sentence(node, words, code, said):
    config = [] if words in (["chek"], ["pause"]) else ["--config", node.config]
    done = rm(*words, *config)
    assert done.returncode == code
    assert said in done.stderr


def test_a_folder_that_is_not_there_is_said(tmp_path):
    done = rm("up", "--config", tmp_path / "none")
    assert done.returncode == 3
    assert "comm.conf: error[C201]" in done.stderr


def test_a_list_that_nobody_reads_to_the_end_is_no_error(node):
    command = f"{sys.executable} -m fractal_rm.cli.main runs list --config {node.config} | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr


# --- the demonstration ---------------------------------------------------------------------------


@pytest.mark.parametrize("broker", ["mosquitto", "nats-server"])
def test_the_demonstration_fires_each_flow_once_and_all_end_as_they_should(broker):
    import os

    path = os.environ["PATH"] if broker == "mosquitto" else "/usr/bin:/bin"
    command = [sys.executable, "-m", "fractal_rm.cli.main", "demo", "--once", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    shown = json.loads(done.stdout)
    assert shown["well"]
    ran = [(each["at_node"], each["run"]["flow"], each["run"]["state"]) for each in shown["runs"]]
    for flow in "123":
        assert ("1", flow, "succeeded") in ran
        assert ("1", flow, "handed-off") in ran
        assert ("2", flow, "succeeded") in ran
    assert done.stderr == ""


def test_ctrl_c_ends_all_of_the_demonstration(tmp_path):
    command = [sys.executable, "-m", "fractal_rm.cli.main", "demo"]
    log = tmp_path / "demo.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    wait_until(lambda: "handed-off" in log.read_text())
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True
    ).stdout.split()
    assert len(children) == 4
    process.send_signal(signal.SIGINT)
    assert process.wait(40) == 0
    assert "ending everything" in log.read_text()
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
