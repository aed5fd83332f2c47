"""The command line, as a person and as a script use it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import programs
from nodes import NodeProcess, wait_until
from ports import free_port

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "runtime_manager" / "config_files"


def rm(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    done = programs.run_text(*words, cwd=cwd)
    assert "Traceback" not in done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A node that has run something, and has stopped."""
    from components import Components

    components = Components()
    made = NodeProcess(tmp_path_factory.mktemp("cli"), components=components.port, mode="api")
    with (made.config / "flows.conf").open("a") as file:
        file.write("\n4\nTO component1 1\nPOST item\n  FOREACH payload\nWAIT 10ms\n")
    made.start()
    made.trigger("1", Prefer="wait=30", Idempotency_Key="k")
    made.trigger("1", Idempotency_Key="k")
    components.answers["/endpoint2"] = (500, "no")
    made.trigger("2", Prefer="wait=30")
    made.trigger("4", payload=[1], Prefer="wait=30")
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
    assert "  cause by-sender\n" in shown
    assert "  state failed  " in shown
    detail = json.loads(rm("runs", "show", failed["id"], "--json", "--config", node.config).stdout)
    assert detail["summary"]["state"] == "failed"


def test_a_step_that_no_answer_belongs_to_is_shown_without_a_status(node):
    listed = rm("runs", "list", "--flow", "4", "--json", "--config", node.config).stdout
    (run,) = json.loads(listed)["runs"]
    shown = rm("runs", "show", run["id"], "--config", node.config).stdout.splitlines()
    element, whole = (line.split(None, 3)[3] for line in shown if "finished" in line)
    assert element.startswith("element-finished  step 1  element 1  status 200  took_ms ")
    assert whole == 'finished          step 1  result [{"ok": true}]'


def test_the_end_of_a_wait_is_shown_as_a_moment(node):
    listed = rm("runs", "list", "--flow", "4", "--json", "--config", node.config).stdout
    (run,) = json.loads(listed)["runs"]
    shown = rm("runs", "show", run["id"], "--config", node.config).stdout
    assert re.search(r"  waiting +position 1  until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\n", shown)


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
    assert (done.returncode, done.stdout) == (0, "api: well, 3 runs (0 unfinished), 17 facts\n")
    assert json.loads(rm("journal", "check", "--json", "--config", node.config).stdout)["well"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["chek"], 2, "There is: up, mqtt"),
        (["pause"], 2, "--all"),
        (["runs", "show", "NOSUCH"], 4, "no run NOSUCH"),
        (["flows", "show", "11"], 4, "flows.conf has no flow 11"),
        (["runs", "show", "NOSUCH"], 4, "`fractal-rm runs list` lists them"),
        (["runs", "show", ""], 4, "give the first letters of a run's id"),
        (["runs", "list", "--state", "happy"], 2, "is not one of"),
        (["runs", "list", "--limit", "-3"], 2, "is not in the range"),
        (["runs", "list", "--limit", "0"], 2, "is not in the range"),
        (["runs", "list", "--limit", "9" * 20], 2, "is not in the range"),
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


@pytest.mark.parametrize(
    ("output", "code", "said"),
    [("| true", 0, ""), ("> /dev/full", 4, "error: No space left on device\n")],
)
def test_what_nobody_reads_is_no_error_and_what_cannot_be_written_is_one(node, output, code, said):
    command = f"{sys.executable} -m fractal_rm.cli.main runs list --config {node.config} {output}"
    bash = ["bash", "-o", "pipefail", "-c", command]
    done = subprocess.run(bash, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, said)


# --- when something is broken --------------------------------------------------------------------


@pytest.fixture
def broken(node, tmp_path):
    """A copy of the node, whose flows.conf and components.conf are broken."""
    shutil.copytree(node.folder, tmp_path / "broken")
    folder = tmp_path / "broken" / "config_files"
    (folder / "flows.conf").write_text("1\nTO nowhere\n")
    (folder / "components.conf").write_text("{,}")
    return folder


@pytest.mark.parametrize(
    "words",
    ["runs list", "audit", "journal check", "pause --all", "resume", "resume --parked"],
)
def test_who_looks_or_pauses_needs_nothing_but_a_good_comm_conf(broken, words):
    done = rm(*words.split(), "--config", broken)
    assert (done.returncode, done.stderr) == (0, "")
    (broken / "comm.conf").write_text("{,}")
    done = rm(*words.split(), "--config", broken)
    assert (done.returncode, "comm.conf:1:2: error[C202]" in done.stderr) == (3, True)


def test_who_asks_for_parked_runs_is_told_that_they_were_asked_to_go_on(broken):
    assert "parked runs were asked" not in rm("resume", "--config", broken).stdout
    assert "parked runs were asked" in rm("resume", "--parked", "--config", broken).stdout


def test_pause_on_a_full_disk_is_answered_with_the_cure_and_leaves_nothing(broken, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small disk")
    try:
        (disk / "filler").write_bytes(b"\0" * 65_536)
        (broken / "comm.conf").write_text(json.dumps({"state": {"path": str(disk)}}))
        done = rm("pause", "--all", "--config", broken)
        assert done.returncode == 4
        assert "No space left on device); make room, or set state.path" in done.stderr
        assert [path.name for path in disk.iterdir()] == ["filler"]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_pause_in_a_folder_that_cannot_be_is_answered_with_the_cure(broken):
    (broken / "comm.conf").write_text('{"state": {"path": "/proc/nope"}}')
    done = rm("pause", "--all", "--config", broken)
    assert done.returncode == 4
    assert "/proc/nope/control.json cannot be written" in done.stderr
    assert "set state.path in comm.conf to another folder" in done.stderr


# --- the launchers and the simulator -------------------------------------------------------------


def python(*words: object, isolated: bool = False) -> subprocess.CompletedProcess[str]:
    """A program of the project; ``isolated``: where nothing is installed."""
    command = [sys.executable, *(["-I", "-S"] if isolated else []), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stdout + done.stderr
    return done


@pytest.mark.parametrize("name", ["rm_mqtt.py", "rm_api.py"])
def test_a_launcher_takes_the_configuration_beside_it_and_says_so(name, tmp_path):
    launcher = shutil.copy(ROOT / "runtime_manager" / name, tmp_path)
    shown = "".join(python(launcher, "--help").stdout.split())
    assert f"[default:{tmp_path}/config_files]" in shown
    assert f"no configuration in {tmp_path}/config_files" in python(launcher).stderr
    assert "no configuration in /nope" in python(launcher, "--config", "/nope").stderr


@pytest.mark.parametrize("name", ["rm_mqtt.py", "rm_api.py"])
def test_a_launcher_outside_of_the_environment_says_what_is_missing(name):
    done = python(ROOT / "runtime_manager" / name, isolated=True)
    assert done.returncode == 1
    assert "no fractal_rm here: . .venv/bin/activate first" in done.stderr


def test_the_simulator_says_how_it_is_used_and_why_it_cannot_listen():
    simulator = ROOT / "test" / "test_rest_api.py"
    assert "usage: test_rest_api.py [-h] [port]" in python(simulator, "--help").stdout
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = taken.getsockname()[1]
        done = python(simulator, port)
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: " in done.stderr
    assert "another simulator may be running" in done.stderr
    assert "cannot listen on 127.0.0.1:99999: " in python(simulator, 99_999).stderr


# --- the demonstration ---------------------------------------------------------------------------


@pytest.mark.parametrize("broker", ["mosquitto", "nats-server"])
def test_the_demonstration_fires_each_flow_once_and_all_end_as_they_should(broker):
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


def demonstration(folder: Path, *options: str) -> tuple[subprocess.Popen[bytes], Path]:
    """The process, whose temporary files are in a folder, and what it prints."""
    command = [sys.executable, "-m", "fractal_rm.cli.main", "demo", *options]
    log = folder / "demo.log"
    (folder / "temporary").mkdir()
    environ = {**os.environ, "TMPDIR": str(folder / "temporary")}
    with log.open("wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, env=environ), log


def children_of(process: subprocess.Popen[bytes]) -> list[str]:
    listed = ["ps", "-o", "pid=", "--ppid", str(process.pid)]
    return subprocess.run(listed, capture_output=True, text=True).stdout.split()


def nothing_is_left(children: list[str], folder: Path) -> bool:
    running = any(Path(f"/proc/{pid}").exists() for pid in children)
    return not running and not list((folder / "temporary").iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_and_a_closed_terminal_end_all_of_the_demonstration(tmp_path, number):
    process, log = demonstration(tmp_path)
    wait_until(lambda: "handed-off" in log.read_text())
    children = children_of(process)
    assert len(children) == 4
    process.send_signal(number)
    assert process.wait(40) == 0
    assert "ending everything" in log.read_text()
    assert nothing_is_left(children, tmp_path)


@pytest.mark.parametrize(("options", "code"), [((), 0), (("--once",), 1)])
def test_a_demonstration_that_is_ended_while_it_starts_leaves_nothing(tmp_path, options, code):
    process, log = demonstration(tmp_path, *options)
    children = wait_until(lambda: children_of(process)[3:] and children_of(process))
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) == code
    assert log.read_text() == ""
    assert nothing_is_left(children, tmp_path)
