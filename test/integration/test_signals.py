"""Real nodes: signals, and missing standard streams."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from fractal_rm.signals import IGNORED
from nodes import FLOWS, NodeProcess, wait_until
from open_files import no_descriptor_free


def can_run_a_flow(node: NodeProcess) -> bool:
    """Whether a trigger is accepted and its run succeeds."""
    return node.trigger("2", Prefer="wait=30").body["state"] == "succeeded"


def count_logged(node: NodeProcess, event: str) -> int:
    """How often an event is in the log file of a node."""
    path = node.folder / "rm.log"
    return path.read_text().split().count(event) if path.exists() else 0


@pytest.fixture
def node(make):
    """A node that writes to a log file."""
    new_node = make()
    new_node.edit("comm", log__path="rm.log")
    return new_node


def test_sighup_reloads_the_configuration_even_if_no_file_changed(node):
    node.launch_ready({})
    node.process.send_signal(signal.SIGHUP)
    wait_until(lambda: count_logged(node, "config_applied") == 1)
    (node.config / "flows.conf").write_text("1\nTO nobody 1\nGET\n")
    wait_until(lambda: count_logged(node, "config_rejected") == 1)
    node.process.send_signal(signal.SIGHUP)  # the errors are logged again
    wait_until(lambda: count_logged(node, "config_rejected") == 2)
    (node.folder / "rm.log").rename(node.folder / "rm.log.1")  # as logrotate does
    (node.config / "flows.conf").write_text(FLOWS)
    wait_until(lambda: count_logged(node, "config_applied") == 1)
    assert can_run_a_flow(node)
    assert node.stop() == 0


def test_ignored_signals_do_not_end_the_node(node):
    node.launch_ready({})
    for signal_number in IGNORED:
        node.process.send_signal(signal_number)
    assert can_run_a_flow(node)
    assert node.stop() == 0


@pytest.mark.parametrize("signal_number", [signal.SIGXCPU, signal.SIGPWR])
def test_repeated_signals_of_a_cpu_limit_or_a_power_failure_drain_the_node(node, signal_number):
    node.launch_ready({})
    for _ in range(3):
        node.process.send_signal(signal_number)
    assert node.stop() == 0  # the SIGTERM of `stop` does not count as a second SIGTERM
    assert count_logged(node, "stopped") == 1


def launch_in_terminal(node: NodeProcess) -> int:
    """Start a node in a pseudoterminal. Returns the descriptor of the other end."""
    other_end, node_end = pty.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    streams = {"stdin": node_end, "stdout": node_end, "stderr": node_end}
    node.launch_ready({**streams, "start_new_session": True, "preexec_fn": take_terminal})
    os.close(node_end)
    return other_end


def test_sighup_without_a_free_descriptor_is_not_taken_for_a_closed_terminal(node):
    terminal = launch_in_terminal(node)
    with no_descriptor_free(node.process.pid):
        node.process.send_signal(signal.SIGHUP)
        (node.config / "flows.conf").write_text(f"{FLOWS}\n9\nTO component1 1\nGET\n")
        wait_until(lambda: count_logged(node, "config_rejected") == 1)
    wait_until(lambda: count_logged(node, "reload_requested") == 1)
    wait_until(lambda: count_logged(node, "config_applied") == 1)
    assert can_run_a_flow(node)
    assert node.stop() == 0
    os.close(terminal)


def test_closing_the_terminal_of_a_node_drains_the_node(node):
    terminal = launch_in_terminal(node)
    assert can_run_a_flow(node)
    os.close(terminal)
    assert node.process.wait(30) == 0
    assert count_logged(node, "terminal_closed") == 1


def test_signals_are_handled_before_the_program_is_loaded():
    """Loading takes seconds on a small machine. A supervisor may send SIGHUP during this time."""
    program = (
        "import importlib, signal; from fractal_rm.cli import main; load = importlib.import_module;"
        "default = signal.SIG_DFL; numbers = signal.SIGHUP, signal.SIGUSR1;"
        "importlib.import_module = lambda name: print(name, *(signal.getsignal(n) != default for n"
        " in numbers), len(signal.pthread_sigmask(signal.SIG_BLOCK, ()))) or load(name);"
        "main.main(['up', '--help'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    assert result.stdout.startswith("fractal_rm.cli.serve True True 0\n"), result.stderr


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT, signal.SIGPWR])
def test_a_node_that_is_stopped_while_it_is_loaded_exits_with_0(signal_number):
    program = (
        "import importlib, os; from fractal_rm.cli import main;"
        f"importlib.import_module = lambda name: os.kill(os.getpid(), {int(signal_number)});"
        "main.main(['up'])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, b"")


def test_a_node_unblocks_signals_that_its_parent_has_blocked(node):
    def block() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})

    node.launch_ready({"preexec_fn": block})
    assert node.stop() == 0


def test_under_nohup_sighup_is_ignored(node):
    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    node.launch_ready({"preexec_fn": nohup})
    node.process.send_signal(signal.SIGHUP)
    assert can_run_a_flow(node)
    assert node.stop() == 0
    assert count_logged(node, "reload_requested") == 0


# --- streams -----------------------------------------------------------------------------------


def close_streams() -> None:
    for descriptor in range(3):
        os.close(descriptor)


def test_a_node_without_standard_streams_works_and_stops(node):
    node.launch_ready({"preexec_fn": close_streams})
    descriptors = Path(f"/proc/{node.process.pid}/fd")
    assert {str((descriptors / name).readlink()) for name in "012"} == {"/dev/null"}
    assert can_run_a_flow(node)
    assert node.stop() == 0
    assert count_logged(node, "stopped") == 1


@pytest.mark.parametrize("launcher", ["rm_mqtt.py", "rm_api.py"])
def test_launchers_open_missing_standard_streams_before_all_other_work(launcher, tmp_path):
    """The configuration is invalid, so the launcher exits before it serves."""
    (tmp_path / "comm.conf").write_text("{")
    program = Path(__file__).parents[2] / "runtime_manager" / launcher
    command = [sys.executable, str(program), "--config", str(tmp_path)]
    result = subprocess.run(command, preexec_fn=close_streams, timeout=60)
    assert result.returncode == 3


def test_a_command_without_standard_output_exits_with_its_usual_code(make):
    command = [sys.executable, "-m", "fractal_rm.cli.main", "runs", "list"]
    config = ["--config", str(make().config)]
    result = subprocess.run(
        [*command, *config], stderr=subprocess.PIPE, preexec_fn=lambda: os.close(1), timeout=60
    )
    assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("stream", "target", "code"),
    [("stdout", "pipe", 0), ("stderr", "pipe", 3), ("stderr", "/dev/full", 3)],
)
def test_a_command_that_cannot_print_exits_with_its_usual_code(stream, target, code, tmp_path):
    """The command prints its help to standard output, or a finding to standard error."""
    (tmp_path / "comm.conf").write_text("{")
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") if target == "pipe" else Path(target).open("w") as output:
        arguments = ["--help"] if stream == "stdout" else ["api", "--config", str(tmp_path)]
        result = subprocess.run(
            [sys.executable, "-m", "fractal_rm.cli.main", *arguments],
            **{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: output},
        )
    assert result.returncode == code


def test_sigusr1_sets_the_log_level_debug_and_sets_it_back(node):
    node.edit("comm", log__format="json")
    node.launch_ready({})
    node.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: count_logged(node, '"log_level_changed",') == 1)
    assert can_run_a_flow(node)
    wait_until(lambda: '"fact": "settled"' in (node.folder / "rm.log").read_text())
    node.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: count_logged(node, '"log_level_changed",') == 2)
    assert node.stop() == 0
    for line in (node.folder / "rm.log").read_text().splitlines():
        assert {"time", "level", "event"} <= set(json.loads(line))
