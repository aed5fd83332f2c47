"""The commands of `fractal-rm`: their output, exit codes and messages."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import programs
from components import Components
from config_files import edit
from nodes import NodeProcess, wait_until
from ports import free_port, port_of

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "runtime_manager" / "config_files"


def run_command(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `fractal-rm` with arguments. Asserts that the output has no traceback."""
    result = programs.run_text(*words, cwd=cwd)
    assert "Traceback" not in result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A stopped node with three runs: flows 1 and 4 succeeded, and flow 2 failed."""
    components = Components()
    new_node = NodeProcess(tmp_path_factory.mktemp("cli"), components=components.port, mode="api")
    with (new_node.config / "flows.conf").open("a") as file:
        file.write("\n4\nTO component1 1\nPOST item\n  FOREACH payload\nWAIT 10ms\n")
    new_node.start()
    new_node.trigger("1", Prefer="wait=30", Idempotency_Key="k")
    new_node.trigger("1", Idempotency_Key="k")
    components.answers["/endpoint2"] = (500, "no")
    new_node.trigger("2", Prefer="wait=30")
    new_node.trigger("4", payload=[1], Prefer="wait=30")
    new_node.stop()
    components.stop()
    return new_node


COMMANDS = "up mqtt api check demo pause resume drain nodes runs flows journal audit token".split()  # noqa: SIM905


def test_help_names_every_command_and_the_exit_codes():
    text = run_command("--help").stdout
    assert all(f"  {command} " in text for command in COMMANDS)
    assert "Exit codes" in text
    for command in COMMANDS:
        assert run_command(command, "--help").returncode == 0


def test_check_reports_that_a_configuration_is_valid_or_has_findings(tmp_path):
    result = run_command("check", SHIPPED)
    assert (result.returncode, result.stdout) == (
        0, f"{SHIPPED}: OK. 3 flows, 3 components, 3 nodes\n",
    )  # fmt: skip
    shutil.copytree(SHIPPED, tmp_path / "config_files")
    (tmp_path / "config_files" / "flows.conf").write_text("1\nTO compnent1 1\nGET\n")
    result = run_command("check", cwd=tmp_path)
    assert result.returncode == 1
    assert "flows.conf:2:4: error[F104]" in result.stdout
    assert 'help: did you mean "component1"?' in result.stdout
    findings = json.loads(run_command("check", "--json", cwd=tmp_path).stdout)["findings"]
    assert [(each["code"], each["place"]["line"]) for each in findings] == [("F104", 2)]


def test_check_takes_the_folder_as_an_argument_or_as_an_option():
    by_argument = run_command("check", SHIPPED)
    by_option = run_command("check", "--config", SHIPPED)
    assert by_option.returncode == 0
    assert by_option.stdout == by_argument.stdout
    refused = run_command("check", "elsewhere", "--config", SHIPPED)
    assert refused.returncode == 2
    assert f"two folders are given: elsewhere and {SHIPPED}" in refused.stderr


def test_runs_are_listed_and_shown(node):
    text = run_command("runs", "list", "--config", node.config).stdout
    assert text.splitlines()[0].split() == [
        "RUN", "ACCEPTED", "FLOW", "BY", "WHERE", "STATE", "MS", "WHY",
    ]  # fmt: skip
    assert "step 1, component1 2: status 500: no" in text
    (failed,) = json.loads(
        run_command("runs", "list", "--state", "failed", "--json", "--config", node.config).stdout
    )["runs"]
    output = run_command("runs", "show", failed["id"], "--config", node.config).stdout
    assert output.startswith(f"run {failed['id']}: failed, step 1")
    assert "step-failed" in output
    assert "  cause by-sender\n" in output
    assert "  state failed  " in output
    detail = json.loads(
        run_command("runs", "show", failed["id"], "--json", "--config", node.config).stdout
    )
    assert detail["summary"]["state"] == "failed"


def test_a_step_with_foreach_is_shown_without_a_status(node):
    output = run_command("runs", "list", "--flow", "4", "--json", "--config", node.config).stdout
    (run,) = json.loads(output)["runs"]
    lines = run_command("runs", "show", run["id"], "--config", node.config).stdout.splitlines()
    finished = [line.split(maxsplit=3) for line in lines if "finished" in line]
    element, step = (description for _date, _time, _zone, description in finished)
    assert element.startswith("element-finished  step 1  element 1  status 200  took_ms ")
    assert step == 'finished          step 1  result [{"ok": true}]'


def test_the_end_of_a_wait_is_shown_as_a_local_time(node):
    runs_output = run_command(
        "runs", "list", "--flow", "4", "--json", "--config", node.config
    ).stdout
    (run,) = json.loads(runs_output)["runs"]
    output = run_command("runs", "show", run["id"], "--config", node.config).stdout
    assert re.search(
        r"  waiting +position 1  until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\n", output
    )


def test_flows_are_listed_and_shown(node):
    assert "1     1     3" in run_command("flows", "list", "--config", node.config).stdout
    output = run_command("flows", "show", "1", "--config", node.config).stdout
    assert "result1 result2" in output
    assert json.loads(run_command("flows", "show", "1", "--json", "--config", node.config).stdout)[
        "steps"
    ]


def test_audit_reports_that_the_counts_match(node):
    result = run_command("audit", "--json", "--config", node.config)
    audit = json.loads(result.stdout)
    assert (result.returncode, audit["balanced"]) == (0, True)
    first = audit["accounts"][0]
    assert (first["flow"], first["received"], first["duplicates"]) == ("1", 2, 1)


def test_audit_reports_counts_that_do_not_match(node, tmp_path):
    shutil.copytree(node.folder, tmp_path / "copy")
    with sqlite3.connect(tmp_path / "copy" / "state" / "api.journal") as db:
        db.execute("DELETE FROM runs WHERE flow = '2'")
    result = run_command("audit", "--config", tmp_path / "copy" / "config_files")
    assert result.returncode == 1
    assert "NO" in result.stdout


def test_journal_check_reports_a_valid_journal(node):
    result = run_command("journal", "check", "--config", node.config)
    assert (result.returncode, result.stdout) == (0, "api: OK, 3 runs (0 unfinished), 17 facts\n")
    assert json.loads(run_command("journal", "check", "--json", "--config", node.config).stdout)[
        "well"
    ]


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["chek"], 2, "The commands are: up, mqtt"),
        (["pause"], 2, "--all"),
        (["runs", "show", "NOSUCH"], 4, "no run NOSUCH"),
        (["flows", "show", "11"], 4, "flows.conf has no flow 11"),
        (["runs", "show", "NOSUCH"], 4, "`fractal-rm runs list` shows the runs"),
        (["runs", "resolve", "NOSUCH", "--taken"], 4, "no run NOSUCH"),
        (["runs", "show", ""], 4, "give the first characters of a run's id"),
        (["runs", "list", "--state", "happy"], 2, "is not one of"),
        (["runs", "list", "--limit", "-3"], 2, "is not in the range"),
        (["runs", "list", "--limit", "0"], 2, "is not in the range"),
        (["runs", "list", "--limit", "9" * 20], 2, "is not in the range"),
    ],
)
def test_a_mistake_of_the_user_is_reported_with_an_exit_code_and_a_sentence(
    node, words, code, error
):
    config = [] if words in (["chek"], ["pause"]) else ["--config", node.config]
    result = run_command(*words, *config)
    assert result.returncode == code
    assert error in result.stderr


def test_a_missing_configuration_folder_is_reported_as_a_finding(tmp_path):
    result = run_command("up", "--config", tmp_path / "none")
    assert result.returncode == 3
    assert "comm.conf: error[C201]" in result.stderr


@pytest.mark.parametrize(
    ("output", "code", "error"),
    [("| true", 0, ""), ("> /dev/full", 4, "error: No space left on device\n")],
)
def test_a_full_disk_is_an_error_and_a_closed_pipe_is_not(node, output, code, error):
    command = f"{sys.executable} -m fractal_rm.cli.main runs list --config {node.config} {output}"
    bash = ["bash", "-o", "pipefail", "-c", command]
    result = subprocess.run(bash, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (code, error)


# --- with a broken configuration or disk ---------------------------------------------------------


@pytest.fixture
def broken_folder(node, tmp_path):
    """The configuration folder of a copy of the node. Two of its files have errors."""
    shutil.copytree(node.folder, tmp_path / "broken_folder")
    folder = tmp_path / "broken_folder" / "config_files"
    (folder / "flows.conf").write_text("1\nTO nowhere\n")
    (folder / "components.conf").write_text("{,}")
    return folder


@pytest.mark.parametrize(
    "words",
    ["runs list", "audit", "journal check", "pause --all", "resume", "resume --parked", "drain"],
)
def test_commands_for_runs_and_pauses_read_only_comm_conf(broken_folder, words):
    result = run_command(*words.split(), "--config", broken_folder)
    assert (result.returncode, result.stderr) == (0, "")
    (broken_folder / "comm.conf").write_text("{,}")
    result = run_command(*words.split(), "--config", broken_folder)
    assert (result.returncode, "comm.conf:1:2: error[C202]" in result.stderr) == (3, True)


def test_resume_with_the_option_parked_prints_that_parked_runs_are_released(broken_folder):
    without_parked = run_command("resume", "--config", broken_folder).stdout
    with_parked = run_command("resume", "--parked", "--config", broken_folder).stdout
    assert "release their parked runs" not in without_parked
    assert "release their parked runs" in with_parked


def test_pause_on_a_full_disk_fails_with_a_hint_and_leaves_no_file(broken_folder, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("cannot mount a small disk: only root may mount")
    try:
        (disk / "filler").write_bytes(b"\0" * 65_536)
        (broken_folder / "comm.conf").write_text(json.dumps({"state": {"path": str(disk)}}))
        result = run_command("pause", "--all", "--config", broken_folder)
        assert result.returncode == 4
        assert "No space left on device); make room, or set state.path" in result.stderr
        assert [path.name for path in disk.iterdir()] == ["filler"]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_pause_fails_with_a_hint_if_the_state_folder_cannot_be_created(broken_folder):
    (broken_folder / "comm.conf").write_text('{"state": {"path": "/proc/nope"}}')
    result = run_command("pause", "--all", "--config", broken_folder)
    assert result.returncode == 4
    assert "/proc/nope/control.json cannot be written" in result.stderr
    assert "set state.path in comm.conf to another folder" in result.stderr


# --- the launchers and the simulator -------------------------------------------------------------


def python(*words: object, isolated: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a Python program. If ``isolated``, the program cannot import installed packages."""
    command = [sys.executable, *(["-I", "-S"] if isolated else []), *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in result.stdout + result.stderr
    return result


@pytest.mark.parametrize("name", ["rm_mqtt.py", "rm_api.py"])
def test_a_launcher_uses_the_configuration_next_to_it(name, tmp_path):
    launcher = shutil.copy(ROOT / "runtime_manager" / name, tmp_path)
    help_text = "".join(python(launcher, "--help").stdout.split())
    assert f"[default:{tmp_path}/config_files]" in help_text
    assert f"no configuration in {tmp_path}/config_files" in python(launcher).stderr
    assert "no configuration in /nope" in python(launcher, "--config", "/nope").stderr


@pytest.mark.parametrize("name", ["rm_mqtt.py", "rm_api.py"])
def test_a_launcher_outside_of_the_virtual_environment_says_how_to_activate_it(name):
    result = python(ROOT / "runtime_manager" / name, isolated=True)
    assert result.returncode == 1
    assert "the Python package fractal_rm is not installed" in result.stderr
    assert ". .venv/bin/activate" in result.stderr


def test_the_simulator_prints_help_and_reports_why_it_cannot_listen():
    simulator = ROOT / "test" / "test_rest_api.py"
    assert "usage: test_rest_api.py [-h] [port]" in python(simulator, "--help").stdout
    with socket.create_server(("127.0.0.1", free_port())) as listening_socket:
        port = port_of(listening_socket)
        result = python(simulator, port)
    assert result.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: " in result.stderr
    assert "Another simulator may be running" in result.stderr
    assert "cannot listen on 127.0.0.1:99999: " in python(simulator, 99_999).stderr


# --- the demo ------------------------------------------------------------------------------------


@pytest.mark.parametrize("broker", ["mosquitto", "nats-server"])
def test_the_demo_runs_each_flow_on_both_nodes(broker):
    # Mosquitto is in /usr/sbin. If the demo does not find it there, it starts the NATS server.
    path = os.environ["PATH"] if broker == "mosquitto" else "/usr/bin:/bin"
    command = [sys.executable, "-m", "fractal_rm.cli.main", "demo", "--once", "--json"]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(result.stdout)
    assert report["well"]
    runs = [(each["at_node"], each["run"]["flow"], each["run"]["state"]) for each in report["runs"]]
    for flow in "123":
        assert ("1", flow, "succeeded") in runs
        assert ("1", flow, "handed-off") in runs
        assert ("2", flow, "succeeded") in runs
    assert result.stderr == ""


def start_demo(folder: Path, *options: str) -> tuple[subprocess.Popen[bytes], Path]:
    """Start the demo with its temporary files in ``folder``. Returns the process and its log."""
    command = [sys.executable, "-m", "fractal_rm.cli.main", "demo", *options]
    log = folder / "demo.log"
    (folder / "temporary").mkdir()
    environ = {**os.environ, "TMPDIR": str(folder / "temporary")}
    with log.open("wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, env=environ), log


def children_of(process: subprocess.Popen[bytes]) -> list[str]:
    command = ["ps", "-o", "pid=", "--ppid", str(process.pid)]
    return subprocess.run(command, capture_output=True, text=True).stdout.split()


def is_cleaned_up(children: list[str], folder: Path) -> bool:
    """Whether all ``children`` have ended, and the demo has deleted its temporary files."""
    running = any(Path(f"/proc/{pid}").exists() for pid in children)
    return not running and not list((folder / "temporary").iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_sigint_and_sighup_end_all_processes_of_the_demo(tmp_path, number):
    process, log = start_demo(tmp_path)
    wait_until(lambda: "handed-off" in log.read_text())
    children = children_of(process)
    assert len(children) == 4
    process.send_signal(number)
    assert process.wait(40) == 0
    assert "stopping all processes" in log.read_text()
    assert is_cleaned_up(children, tmp_path)


@pytest.mark.parametrize(("options", "code"), [((), 0), (("--once",), 1)])
def test_a_demo_that_is_stopped_while_it_starts_leaves_no_process_and_no_file(
    tmp_path, options, code
):
    process, log = start_demo(tmp_path, *options)
    wait_until(lambda: len(children_of(process)) >= 4)
    children = children_of(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(40) == code
    assert log.read_text() == ""
    assert is_cleaned_up(children, tmp_path)


def test_a_token_is_made_listed_and_revoked(tmp_path):
    config = shutil.copytree(SHIPPED, tmp_path / "config_files")
    made = run_command("token", "new", "line-3", "--scope", "read", "--config", config)
    assert re.fullmatch(r"frm_[A-Za-z0-9_-]{43}\n", made.stdout)
    assert "it is not shown again" in made.stderr
    assert made.stdout.strip() not in (tmp_path / "state" / "tokens.json").read_text()
    again = run_command("token", "new", "line-3", "--scope", "read", "--config", config)
    assert (again.returncode, "there is a token line-3 already" in again.stderr) == (4, True)
    listed = run_command("token", "list", "--config", config).stdout
    assert re.search(r"line-3 +read +.* valid", listed)
    assert run_command("token", "revoke", "line-3", "--config", config).stdout == "revoked line-3\n"
    assert run_command("token", "revoke", "line-3", "--config", config).returncode == 1
    assert run_command("token", "list", "--config", config).stdout == "there are no tokens\n"


def test_a_node_that_other_machines_can_reach_needs_a_token_or_trusted_peers(tmp_path):
    config = shutil.copytree(SHIPPED, tmp_path / "config_files")
    edit(config, "comm", rest__host="0.0.0.0")
    refused = run_command("check", config)
    assert refused.returncode == 1
    assert "fractal-rm token new" in refused.stdout + refused.stderr
    run_command("token", "new", "dashboard", "--scope", "read", "--config", config)
    assert run_command("check", config).returncode == 0
