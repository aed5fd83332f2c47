"""Real nodes: starting, refused starts, and stopping."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from components import slow
from fractal_rm.adapters.sqlite.format.schema import FORMAT
from fractal_rm.domain.state import State
from nodes import NodeProcess, wait_until
from ports import free_port


def test_the_mqtt_launcher_imports_no_web_framework():
    script = (
        "import sys, fractal_rm.wiring, fractal_rm.cli.serve, fractal_rm.adapters.mqtt\n"
        "print([m for m in ('litestar', 'uvicorn', 'starlette', 'jinja2') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert result.stdout == b"[]\n"


def test_a_second_process_on_the_same_journal_is_refused(make):
    node = make().start()
    other = node.second_process()
    other.edit("comm", rest__port=free_port())
    other.launch()
    assert other.process.wait(20) == 4
    assert f"is in use by process {node.process.pid}" in other.log
    assert "Traceback" not in other.log


# --- refused starts ------------------------------------------------------------------------------


def refusal(node: NodeProcess, code: int = 4) -> str:
    """Start a node that must end with the exit code ``code``. Returns its log."""
    node.launch()
    assert node.process.wait(20) == code
    assert "Traceback" not in node.log
    return node.log


def test_all_errors_of_a_configuration_are_shown_together(make):
    node = make()
    node.edit("comm", rest__port="x")
    (node.config / "flows.conf").write_text("1\nGET\n")
    log = refusal(node, code=3)
    assert "error[C205]" in log
    assert "error[F106]" in log


def test_a_port_in_use_is_reported_with_the_key_to_change(make):
    node = make()
    with socket.create_server(("127.0.0.1", node.rest)):
        assert "another program listens there; stop it, or set rest.port" in refusal(node)


def test_a_node_refuses_a_journal_of_a_newer_release(make):
    node = make().start()
    node.stop()
    with sqlite3.connect(node.state / "api.journal") as db:
        db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    assert "was written by a newer release" in refusal(node)


def test_a_node_refuses_a_damaged_journal_and_names_the_run(make, components):
    components.answers["/endpoint2"] = "hang"
    node = make().start()
    run = node.trigger("2").body["run"]
    with closing(sqlite3.connect(node.state / "api.journal")) as db:
        wait_until(lambda: db.execute("SELECT count(*) FROM pages").fetchone() == (1,))
    node.kill()
    with sqlite3.connect(node.state / "api.journal") as db:
        db.execute(
            "UPDATE pages SET body = CAST(replace(CAST(body AS TEXT), 'rest', 'mqtt') AS BLOB)"
        )
    log = refusal(node)
    assert f"page 1 of run {run} does not match its checksum" in log
    assert "fractal-rm journal check" in log
    checked = node.command("journal", "check")
    assert checked.returncode == 1
    assert "DAMAGED" in checked.stdout


def test_an_unwritable_log_path_is_reported(make):
    node = make()
    node.edit("comm", log__path="no/such/folder/rm.log")
    assert "log.path" in refusal(node)


def test_a_log_path_that_is_a_fifo_without_a_reader_is_reported(make):
    node = make()
    os.mkfifo(node.folder / "fifo")
    node.edit("comm", log__path="fifo")
    assert "a FIFO that no process reads" in refusal(node)


def test_the_log_is_written_to_the_configured_file(make):
    node = make()
    node.edit("comm", log__path="rm.log")
    node.launch()
    wait_until(lambda: (node.folder / "rm.log").exists()
               and " ready " in (node.folder / "rm.log").read_text())  # fmt: skip
    assert node.stop() == 0


def test_a_node_refuses_triggers_while_its_disk_is_full_and_recovers(make, tmp_path):
    state = tmp_path / "disk"
    state.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", str(state)])
    if mounted.returncode != 0:
        pytest.skip("only root may mount a small disk")
    try:
        node = make()
        node.edit("comm", state__path=str(state))
        node.state = state
        node.start()
        assert node.outcome()["state"] == "succeeded"
        filler = state / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while file.write(b"\0" * 4096):
                    pass
            except OSError:
                pass
        status, headers, problem = wait_until(lambda: refused_trigger(node, "x" * 200_000))
        assert (status, problem["type"]) == (503, "urn:fractal-rm:journal-unavailable")
        assert headers["retry-after"]
        assert node.get("/readyz").status == 503
        wait_until(lambda: "journal_full" in node.log)
        assert node.get("/livez").status == 200
        filler.unlink()
        wait_until(lambda: node.get("/readyz").status == 200)
        assert node.outcome()["state"] == "succeeded"
        assert node.stop() == 0
        assert node.problems() == []
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)


def refused_trigger(node: NodeProcess, payload: object = "p"):
    """Send a trigger. Returns the response if the trigger was refused, or None."""
    answer = node.trigger("2", payload)
    return answer if answer[0] != 200 else None


# --- stopping a node ------------------------------------------------------------------------------


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_after_a_signal_the_node_finishes_runs_in_flight_and_exits_with_0(
    make, components, signal_number
):
    components.answers["/endpoint2"] = slow(0.5)
    node = make().start()
    run = node.trigger("2").body["run"]
    wait_until(lambda: components.requests)
    assert node.stop(signal_number) == 0
    assert node.history.run(run).summary.state is State.SUCCEEDED
    assert "after_crash=False" in node.start().log


def test_a_second_signal_ends_the_node_immediately_and_the_next_start_resumes_the_run(
    make, components
):
    components.answers["/endpoint2"] = "hang"
    node = make().start()
    run = node.trigger("2").body["run"]
    wait_until(lambda: components.requests)
    node.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "stopping" in node.log)

    def ended_by_signal() -> bool:
        node.process.send_signal(signal.SIGTERM)
        return node.process.poll() is not None

    wait_until(ended_by_signal)  # signals in quick succession count as one
    assert node.process.wait(10) == 130
    assert "ended_by_second_signal" in node.log
    components.answers["/endpoint2"] = (200, "late")
    node.start()
    wait_until(lambda: node.history.run(run).summary.state is State.SUCCEEDED)


def test_a_client_that_waits_gets_the_outcome_of_a_run_that_ends_while_the_node_stops(
    make, components
):
    components.answers["/endpoint2"] = slow(0.5)
    node = make().start()
    answer = []
    waiting = threading.Thread(
        target=lambda: answer.append(node.trigger("2", Prefer="wait=30").body)
    )
    waiting.start()
    wait_until(lambda: components.requests)
    assert node.stop() == 0
    waiting.join(10)
    assert answer[0]["state"] == "succeeded"


def test_a_client_that_waits_gets_the_state_of_an_open_run_when_the_node_stops(make):
    node = make().start()
    node.pause()
    answer = []
    waiting = threading.Thread(target=lambda: answer.append(node.trigger("2", Prefer="wait=60")))
    waiting.start()
    wait_until(node.runs)
    assert node.stop() == 0
    waiting.join(10)
    status, _, state = answer[0]
    assert (status, state["state"]) == (200, "accepted")
