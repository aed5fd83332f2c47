"""Faults in the files of a running node: its journal, its configuration, its keys."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import sqlite3
import threading
import zoneinfo
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from engine_stage import Stage
from fractal_rm.adapters.sqlite.format.prepare import PAGE_BYTES
from fractal_rm.adapters.tls import TlsContexts
from fractal_rm.changes import Changes
from fractal_rm.config.compile import FILES
from fractal_rm.config.control import Control, change_control
from fractal_rm.config.load import FileWatch, load, read_file
from fractal_rm.config.regular_file import SECRET_BYTES
from fractal_rm.domain.call import Tls
from fractal_rm.domain.call_errors import ConnectFailed
from fractal_rm.domain.findings import ConfigRejected
from fractal_rm.domain.state import State
from nodes import FLOWS, HOST, NodeProcess, wait_until
from open_files import MAY_OPEN_FEW, no_descriptor_free, open_files_limited


def run_a_flow(node: NodeProcess) -> str:
    """Send a trigger whose run succeeds; return the id of the run."""
    status, _, answer = node.trigger("2", Prefer="wait=30")
    assert (status, answer["state"]) == (200, "succeeded")
    return answer["run"]


# --- the journal -------------------------------------------------------------------------------


def test_a_node_whose_state_folder_was_renamed_refuses_triggers_until_the_folder_is_back(make):
    node = make().start()
    acknowledged = [run_a_flow(node)]
    renamed_folder = node.state.with_name("renamed_folder")
    node.state.rename(renamed_folder)
    for _ in range(20):
        assert node.trigger("2")[0] == 503
    assert not node.check("journal")
    assert node.get("/livez")[0] == 200
    wait_until(lambda: node.log.count("journal_gone") == 1)
    renamed_folder.rename(node.state)
    wait_until(lambda: node.check("journal"))
    wait_until(lambda: "journal_writable_again" in node.log)
    acknowledged.append(run_a_flow(node))
    node.kill()
    node.start()
    assert {run.id for run in node.runs()} == set(acknowledged)
    assert node.problems() == []


def test_a_deleted_journal_is_reported_before_the_next_trigger(make):
    node = make().start()
    (node.state / "api.journal").unlink()
    wait_until(lambda: not node.check("journal"))
    assert node.get("/readyz")[0] == 503
    assert node.trigger("2")[0] == 503
    assert node.stop() == 0


def test_a_node_that_cannot_write_the_end_of_a_run_logs_an_error_when_the_node_stops(
    make, components
):
    def answer(*_):
        components.release.wait(60)
        return 200, "late"

    components.answers["/endpoint2"] = answer
    node = make().start()
    run = node.trigger("2")[2]["run"]
    wait_until(lambda: components.requests)
    renamed_folder = node.state.with_name("renamed_folder")
    node.state.rename(renamed_folder)
    wait_until(lambda: not node.check("journal"))
    components.release.set()
    assert node.stop() == 0
    assert node.log.count("end_not_written") == 1
    renamed_folder.rename(node.state)
    node.start()
    assert "ready found=1 after_crash=True" in node.log
    wait_until(lambda: node.history.run(run).summary.state is State.SUCCEEDED)


def test_a_zeroed_page_of_the_history_is_reported_and_the_node_continues_to_work(make, components):
    node = make().start()
    run_ids = [node.trigger()[2]["run"] for _ in range(40)]
    wait_until(lambda: len(node.runs(State.SUCCEEDED)) == 40)
    assert node.stop() == 0
    with closing(sqlite3.connect(node.state / "api.journal")) as db:
        (page,) = db.execute(
            "SELECT pageno FROM dbstat WHERE name = 'runs' AND pagetype = 'leaf' LIMIT 1"
        ).fetchone()
    with (node.state / "api.journal").open("r+b") as file:
        file.seek((page - 1) * PAGE_BYTES)
        file.write(bytes(PAGE_BYTES))
    node.start()
    wait_until(lambda: node.log.count("history_damaged") == 1)
    status, _, ready = node.get("/readyz")
    (history,) = [check for check in ready["checks"] if check["name"] == "history"]
    assert status == 200
    assert "the history is damaged" in history["text"]
    new = node.trigger()[2]["run"]
    status, _, answer = node.get("/v1/runs?limit=100")
    listed = {run["id"] for run in answer["runs"]}
    assert status == 200
    assert new in listed
    assert 0 < len(listed & set(run_ids)) < 40
    assert "cannot be read" in answer["unreadable"][0]
    assert node.get("/v1/runs?state=succeeded")[0] == 200
    assert node.stop() == 0


# --- the configuration -------------------------------------------------------------------------

CHANGED_FLOWS = FLOWS + "\n9 new\nTO component1 1\nGET\n"


class WatchedNode:
    """A node, its configuration files, and the `Changes` object that watches the files."""

    def __init__(self, folder: Path) -> None:
        self.disk = NodeProcess(folder / "n", components=1)
        files = FileWatch(self.disk.config)
        self.stage = Stage()
        self.stage.dependencies.config = load(self.disk.config, {}).config
        self.changes = Changes(self.stage.node, self.stage.dependencies, files)
        self.events = self.stage.telemetry.events

    async def apply_change(self) -> None:
        """Check the files twice. The second check applies the change that the first check found."""
        await self.changes.apply()
        await self.changes.apply()

    async def check_later(self, times: int = 1) -> None:
        """Check the files ``times`` times. One minute passes before each check."""
        for _ in range(times):
            self.stage.clock.ms += 60_000
            await self.changes.apply()


async def test_a_change_is_applied_when_a_descriptor_is_free_again(tmp_path):
    watched = WatchedNode(tmp_path)
    (watched.disk.config / "flows.conf").write_text(CHANGED_FLOWS)
    await asyncio.to_thread(len, "")  # a pool thread cannot start without descriptors
    with no_descriptor_free():
        await watched.apply_change()
        await watched.check_later(3)
    assert watched.events.count("config_rejected") == 1
    await watched.check_later()
    assert watched.events[-1] == "config_applied"
    assert "9" in watched.stage.dependencies.config.flows
    await watched.check_later(3)
    assert watched.events.count("config_applied") == 1


@pytest.mark.parametrize(
    "flow",
    ['CRON "0 3 * * *" Asia/Tokyo\nTO component1 1\nGET'],
)
async def test_modules_that_a_flow_needs_are_loaded_when_a_descriptor_is_free(
    tmp_path, monkeypatch, flow
):
    """All descriptors are used up between the reading of the files and the loading of modules."""
    watched = WatchedNode(tmp_path)
    (watched.disk.config / "flows.conf").write_text(f"{FLOWS}\n9\n{flow}\n")
    await asyncio.to_thread(len, "")
    zoneinfo.ZoneInfo.clear_cache()
    with ExitStack() as used_descriptors, monkeypatch.context() as patched:

        def read_and_use_all_descriptors(path: Path):
            text = read_file(path)
            if path.name == FILES[-1]:
                used_descriptors.enter_context(no_descriptor_free())
            return text

        patched.setattr("fractal_rm.config.load.read_file", read_and_use_all_descriptors)
        await watched.apply_change()
    assert watched.events == ["config_rejected", "config_finding"]
    await watched.check_later()
    assert watched.events[-1] == "config_applied"
    assert "9" in watched.stage.dependencies.config.flows


def test_the_first_use_of_a_charset_or_of_tls_needs_no_free_descriptor(make, components):
    """The first use of a charset or of TLS imports a module. The node imports it at its start."""
    euro = (200, b"\x80", {"Content-Type": "text/plain; charset=windows-1252"})
    kana = (200, b"\x83\x4b", {"Content-Type": "text/plain; charset=Shift_JIS"})
    node = make()
    node.edit("components", component3__config__protocol="https")
    (node.config / "flows.conf").write_text(f"{FLOWS}\n3\nTO component3 1\nGET\n")
    # A separate process, because the test process has imported these modules already.
    node.command_prefix = MAY_OPEN_FEW
    node.start()
    with closing(http.client.HTTPConnection(HOST, node.rest, timeout=40)) as connection:

        def outcome(flow: str, free_descriptors: int) -> dict:
            """The outcome of a run of a node that can open ``free_descriptors`` more files."""
            used = {int(each.name) for each in Path(f"/proc/{node.process.pid}/fd").iterdir()}
            first_free = min(set(range(len(used) + 1)) - used)
            with open_files_limited(node.process.pid, first_free + free_descriptors):
                body = json.dumps({"id_flow": flow, "is_load_balancing": True, "payload": "p"})
                headers = {"Content-Type": "application/json", "Prefer": "wait=30"}
                connection.request("POST", "/startrm", body, headers)
                return json.loads(connection.getresponse().read())

        # This call opens the connection that the later calls reuse.
        assert outcome("2", 20)["state"] == "succeeded"
        components.answers["/endpoint2"] = euro
        assert outcome("2", 0)["results"] == ["€"]
        components.answers["/endpoint2"] = kana
        assert outcome("2", 0)["results"] == ["ガ"]
        assert "the server does not speak TLS" in outcome("3", 1)["reason"]


def test_a_resumed_run_whose_flow_has_a_path_needs_no_free_descriptor(make, components):
    """At the restart no flow of flows.conf has a path, so the node does not load JMESPath."""
    resume = threading.Event()
    components.answers["/endpoint2"] = lambda *_: (resume.wait(30), (200, "done"))[1]
    node = make()
    flow = "8\nTO component1 2\nGET\nTO component1 1\nPOST payload.a.b\n"
    (node.config / "flows.conf").write_text(f"{FLOWS}\n{flow}")
    node.start()
    run = node.trigger("8", {"a": {"b": 1}})[2]["run"]
    wait_until(lambda: len(components.requests) == 1)
    node.kill()
    (node.config / "flows.conf").write_text(FLOWS)
    node.command_prefix = MAY_OPEN_FEW
    node.start()
    wait_until(lambda: len(components.requests) == 2)
    with no_descriptor_free(node.process.pid):
        resume.set()
        wait_until(lambda: len(components.requests) == 3)
    wait_until(lambda: node.history.run(run).summary.state is State.SUCCEEDED)


def test_runs_in_flight_use_at_most_half_of_the_descriptors(make, components):
    """The other runs wait in the queue. The time limit of a call does not include this wait."""
    lock, release, in_flight, peak = threading.Lock(), threading.Event(), 0, 0

    def answer(*_) -> tuple[int, str]:
        nonlocal in_flight, peak
        with lock:
            in_flight += 1
            peak = max(peak, in_flight)
        release.wait(30)
        with lock:
            in_flight -= 1
        return 200, "done"

    components.answers["/endpoint2"] = answer
    node = make()
    node.command_prefix = MAY_OPEN_FEW
    node.start()
    with closing(http.client.HTTPConnection(HOST, node.rest, timeout=40)) as connection:
        for n in range(300):
            body = json.dumps({"id_flow": "2", "is_load_balancing": True, "payload": n})
            connection.request("POST", "/startrm", body, {"Content-Type": "application/json"})
            answer_to_trigger = connection.getresponse()
            assert (answer_to_trigger.status, bool(answer_to_trigger.read())) == (200, True)
    wait_until(lambda: in_flight >= 100)  # not 128: a flow cannot use all slots
    release.set()
    wait_until(lambda: len(node.runs(State.SUCCEEDED)) == 300)
    assert peak <= 128


async def test_reading_a_slow_file_does_not_block_the_event_loop(tmp_path, monkeypatch):
    watched = WatchedNode(tmp_path)
    (watched.disk.config / "flows.conf").write_text(CHANGED_FLOWS)
    loop_has_run = threading.Event()

    def load_slowly(*args: object):
        assert loop_has_run.wait(30)
        return load(*args)

    monkeypatch.setattr("fractal_rm.changes.load", load_slowly)
    applying = asyncio.create_task(watched.apply_change())
    asyncio.get_running_loop().call_later(0.01, loop_has_run.set)
    await applying
    assert watched.events[-1] == "config_applied"


async def test_if_a_reload_is_requested_during_a_reload_the_files_are_read_again(
    tmp_path, monkeypatch
):
    watched = WatchedNode(tmp_path)
    reads = []
    loop = asyncio.get_running_loop()

    async def request_reload():
        watched.changes.reread()

    def load_and_request_reload(*args: object):
        if not reads:  # the files are read in a thread
            asyncio.run_coroutine_threadsafe(request_reload(), loop).result(30)
        reads.append(args)
        return load(*args)

    monkeypatch.setattr("fractal_rm.changes.load", load_and_request_reload)
    (watched.disk.config / "flows.conf").write_text(CHANGED_FLOWS)
    await watched.apply_change()
    await watched.check_later(2)
    assert len(reads) == 2
    assert watched.events.count("config_applied") == 2


async def test_a_change_that_was_not_applied_is_tried_again_and_reported_once(tmp_path):
    watched = WatchedNode(tmp_path)
    reconfigure = watched.stage.node.reconfigure
    errors = [OSError("another program listens there")] * 3

    async def refuse(config):
        if errors:
            raise errors.pop()
        await reconfigure(config)

    watched.stage.node.reconfigure = refuse
    (watched.disk.config / "flows.conf").write_text(CHANGED_FLOWS)
    await watched.apply_change()
    await watched.check_later(2)
    assert watched.events == ["config_not_applied"]
    await watched.check_later()
    assert watched.events == ["config_not_applied", "config_applied"]


async def test_a_rejected_configuration_is_not_read_again_until_a_file_changes(
    tmp_path, monkeypatch
):
    watched = WatchedNode(tmp_path)
    (watched.disk.config / "flows.conf").write_text("1\nTO nobody 1\nGET\n")
    await watched.apply_change()
    monkeypatch.setattr("fractal_rm.changes.load", None)
    await watched.check_later(3)
    assert set(watched.events) == {"config_rejected", "config_finding"}


async def test_a_node_stays_paused_while_the_control_file_cannot_be_read(tmp_path):
    watched = WatchedNode(tmp_path)
    change_control(watched.disk.state, lambda _: Control(paused=True))
    await watched.check_later()
    with no_descriptor_free():
        await watched.check_later(3)
    await watched.check_later()
    assert watched.events == ["paused", "control_unreadable"]


async def test_a_node_that_cannot_read_the_control_file_at_its_start_is_paused(tmp_path):
    state = tmp_path / "n" / "state"
    state.mkdir(parents=True)
    os.mkfifo(state / "control.json")
    watched = WatchedNode(tmp_path)
    assert watched.events == ["control_unreadable", "paused"]
    (state / "control.json").unlink()
    await watched.check_later()
    assert watched.events[-1] == "resumed"


@pytest.mark.parametrize("kind", ["FIFO", "device", "socket", "link to a device"])
def test_only_regular_files_are_read(tmp_path, kind):
    node = NodeProcess(tmp_path / "n", components=1)
    flows = node.config / "flows.conf"
    flows.unlink()
    make_irregular_file(flows, kind)
    with pytest.raises(ConfigRejected) as rejected:
        load(node.config, {})
    assert [(finding.file, finding.code) for finding in rejected.value.findings] == [
        ("flows.conf", "C231")
    ]
    assert kind.split()[-1] in str(rejected.value)


def make_irregular_file(path: Path, kind: str) -> None:
    """Make a file that is not a regular file."""
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    else:
        path.symlink_to("/dev/zero")


def test_a_reference_to_a_fifo_or_to_a_large_file_is_a_finding(tmp_path):
    node = NodeProcess(tmp_path / "n", components=1)
    os.mkfifo(node.folder / "secret")
    node.edit("comm", mqtt__password="${file:secret}")
    (node.folder / "large").write_bytes(b"x" * (SECRET_BYTES + 1))
    node.edit("comm", mqtt__username="${file:large}")
    with pytest.raises(ConfigRejected) as rejected:
        load(node.config, {})
    assert [finding.code for finding in rejected.value.findings] == ["C231", "C232"]
    assert all(finding.place.line for finding in rejected.value.findings)


def test_a_huge_configuration_file_is_read_only_up_to_a_limit(tmp_path):
    node = NodeProcess(tmp_path / "n", components=1)
    with (node.config / "flows.conf").open("ab") as file:
        file.truncate(1 << 40)  # a sparse file of 1 TiB
    with pytest.raises(ConfigRejected, match="C232"):
        load(node.config, {})


def test_a_configuration_file_that_is_replaced_by_a_fifo_is_not_applied(make):
    node = make().start()
    flows = node.config / "flows.conf"
    flows.unlink()
    os.mkfifo(flows)
    wait_until(lambda: "C231" in node.log)
    assert run_a_flow(node)
    flows.unlink()
    flows.write_text(CHANGED_FLOWS)
    wait_until(lambda: "config_applied" in node.log)


def test_a_tls_file_that_is_a_fifo_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "ca.pem")
    with pytest.raises(ConnectFailed, match="this is a FIFO"):
        TlsContexts().context(Tls(str(tmp_path / "ca.pem"), None, None))
