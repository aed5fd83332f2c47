"""Backups of running nodes, and nodes that are restored from them."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import tarfile
import threading
import time
from datetime import datetime

import pytest

import programs
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.domain.backup import IN_BACKUP, MANIFEST, is_known
from fractal_rm.domain.state import State
from nodes import wait_until

KEEP_NONE = "7\nKEEP none\nTO component1 1\nPOST payload\n"
WAITING = "8\nTO component1 1\nPOST payload\nWAIT 1h\nTO component2 1\nPOST result1\n"


def add_flows(node, *texts: str) -> None:
    with (node.config / "flows.conf").open("a") as file:
        file.writelines(f"\n{text}" for text in texts)


def back_up(node, name="backup.tar"):
    target = node.folder / name
    result = node.command("backup", str(target))
    assert result.returncode == 0, result.stderr + result.stdout
    return target


def restore(make, source, **options):
    """Restore a backup as another node, which is not started. Returns the node, and the output."""
    node = make("restored", **options)
    comm = node.read("comm")
    for path in node.config.iterdir():
        path.unlink()
    result = programs.run_text(
        "restore", source, "--into", node.state, "--config-into", node.config
    )
    assert result.returncode == 0, result.stderr
    node.write("comm", comm)  # with ports of its own
    return node, result.stdout


def refusal(*words: object) -> str:
    result = programs.run_text("restore", *words)
    assert result.returncode == 4, result.stdout
    return result.stderr


def test_a_backup_under_load_has_everything_that_was_acknowledged_before_it_began(make):
    node = make().start()
    add_flows(node, KEEP_NONE)
    acknowledged, ended = [], threading.Event()

    def send():
        size = 0
        while not ended.is_set():
            size = (size + 40_000) % 200_000  # some payloads are stored in files of their own
            answer = node.trigger("1", "x" * size)
            assert answer.status in (200, 202), answer
            acknowledged.append(answer.body["run"])

    senders = [threading.Thread(target=send) for _ in range(2)]
    for sender in senders:
        sender.start()
    backups = []
    for n in range(3):
        wait_until(lambda n=n: len(acknowledged) >= 25 * (n + 1))
        before = list(acknowledged)
        backups.append((before, back_up(node, f"backup{n}")))
    ended.set()
    for sender in senders:
        sender.join()
    node.stop()
    for before, folder in backups:
        assert check_journal(folder / "state/api.journal").problems == []
        manifest = json.loads((folder / MANIFEST).read_text())
        assert manifest["journals"][0]["runs"] >= len(before)
    restored, _ = restore(make, backups[-1][1])
    assert {run.id for run in restored.runs()} >= set(backups[-1][0])


def test_open_runs_wait_for_an_operator_and_are_not_called_again_unasked(make, components):
    node = make()
    add_flows(node, WAITING)
    node.start()
    run_id = node.trigger("8").body["run"]
    ended_id = node.outcome("1")["run"]
    wait_until(lambda: len(components.requests) >= 2)
    wait_until(lambda: "WaitStarted" in facts_of(node, run_id))
    backup = back_up(node)
    node.kill()
    components.requests.clear()
    restored, output = restore(make, backup)
    assert "1 open runs are parked" in output
    restored.start()
    (parked,) = restored.runs(State.PARKED)
    assert parked.id == run_id
    assert parked.reason.startswith("restored from a backup of 20")
    assert restored.outcome("1")["state"] == "succeeded"
    assert {run.id for run in restored.runs(State.SUCCEEDED)} >= {ended_id}
    assert not [key for key in components.per_key() if key.startswith(run_id)]


def facts_of(node, run_id):
    return [type(each.fact).__name__ for each in node.history.run(run_id).facts]


def test_a_released_run_continues_with_the_idempotency_keys_of_the_lost_node(make, components):
    components.answers["/endpoint1"] = "hang"
    node = make().start()
    run_id = node.trigger("1").body["run"]
    wait_until(lambda: components.requests)
    backup = back_up(node)
    node.kill()
    (lost,) = components.per_key()
    components.requests.clear()
    components.answers.clear()
    restored, _ = restore(make, backup)
    restored.start()
    assert restored.command("resume", "--parked").returncode == 0
    wait_until(lambda: [run.id for run in restored.runs(State.SUCCEEDED)] == [run_id])
    assert lost in components.per_key()


def test_other_nodes_notice_a_restored_node_and_schedules_do_not_fire_for_the_past(make, mosquitto):
    node = make(mode="up", broker=mosquitto.port)
    add_flows(node, "9\nEVERY 1s\nCATCHUP all\nTO component1 1\nGET\n")
    node.start().wait_connected()
    wait_until((node.state / "schedules.json").exists)
    wait_until(lambda: [run for run in node.runs() if run.flow == "9"])
    backup = back_up(node)
    store = node.describe()["store"]
    node.kill()
    for name in sorted(path.name for path in node.state.iterdir()):
        assert is_known(name), f"{name}: decide in domain/backup.py whether backups contain it"
    restored, _ = restore(make, backup, mode="up", broker=mosquitto.port)
    known = {run.id for run in restored.runs()}
    started_s = time.time()
    restored.start()
    assert restored.describe()["store"] != store
    assert restored.describe()["node"] == node_id_in(backup)
    later = wait_until(lambda: [run for run in restored.runs() if run.id not in known])
    payloads = [restored.history.run(run.id).facts[0].fact.payload for run in later]
    moments = [
        datetime.fromisoformat(json.loads(bytes(each))["at"][:-1] + "+00:00") for each in payloads
    ]
    assert min(moments).timestamp() >= started_s - 1


def node_id_in(backup) -> str:
    with tarfile.open(backup) as tar:
        return json.loads(tar.extractfile(MANIFEST).read())["node"]


def test_a_killed_backup_leaves_no_backup_and_does_not_disturb_the_next_one(make):
    node = make().start()
    for _ in range(20):
        node.trigger("1", "x" * 100_000)
    target = node.folder / "killed.tar"
    staging = node.folder / ".killed.tar.partial"
    for reached in ("content", "content/state", "content/state/api.blobs", "content/manifest.json"):
        with (node.folder / "output").open("wb") as output:
            words = ["backup", str(target), "--config", str(node.config)]
            command = programs.start(words, output, output)
        wait_until(lambda path=staging / reached, c=command: path.exists() or c.poll() is not None)
        command.kill()
        command.wait()
        if target.exists():  # the backup was faster than the kill: then it is complete
            assert (
                "journal api"
                in programs.run_text(
                    "restore",
                    target,
                    "--into",
                    node.folder / f"complete-{reached.replace('/', '-')}",
                ).stdout
            )
            target.unlink()
    back_up(node, "killed.tar")
    assert not staging.exists()
    assert node.outcome("1")["state"] == "succeeded"


def test_a_backup_that_does_not_fit_on_the_disk_fails_and_leaves_nothing(make):
    node = make().start()
    for _ in range(5):
        node.trigger("1", "x" * 60_000)
    target = node.folder / "big.tar"
    # Files may have at most 64 KiB. A write beyond that fails, as on a full disk.
    command = [*programs.COMMAND, "backup", str(target), "--config", str(node.config)]
    result = subprocess.run(
        ["sh", "-c", 'ulimit -f 64; exec "$@"', "sh", *command],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 4
    assert "was not written" in result.stderr
    assert [path.name for path in node.folder.iterdir() if "big" in path.name] == []
    assert node.outcome("1")["state"] == "succeeded"


def test_a_backup_has_only_the_values_that_are_kept(make):
    node = make()
    add_flows(node, KEEP_NONE)
    node.start()
    node.outcome("7", payload="canary-not-kept")
    node.outcome("1", payload="canary-kept")
    content = back_up(node).read_bytes()
    assert b"canary-kept" in content
    assert b"canary-not-kept" not in content


def test_a_backup_can_only_be_read_by_its_owner_and_has_the_files_as_they_are(make):
    node = make().start()
    node.command("token", "new", "dashboard", "--scope", "read")
    (node.state / "pair").mkdir()
    (node.state / "pair/node.key").write_text("key")
    folder = back_up(node, "folder")
    assert (folder.stat().st_mode & 0o777, back_up(node).stat().st_mode & 0o777) == (0o700, 0o600)
    for name in ("comm.conf", "flows.conf"):
        assert (folder / "config" / name).read_text() == (node.config / name).read_text()
    assert (folder / "state/pair/node.key").read_text() == "key"
    assert (folder / "state/tokens.json").read_bytes() == (node.state / "tokens.json").read_bytes()
    assert "tokens.json" in IN_BACKUP


def test_a_restore_overwrites_nothing(make, tmp_path):
    node = make().start()
    backup = back_up(node)
    assert "exists" in node.command("backup", str(backup)).stderr
    assert "a process has" in refusal(backup, "--into", node.state)
    node.stop()
    assert "is not empty" in refusal(backup, "--into", node.state)
    target = tmp_path / "state2"
    assert "is not empty" in refusal(backup, "--into", target, "--config-into", node.config)
    assert not target.exists()


def test_a_damaged_backup_is_refused(make, tmp_path):
    node = make().start()
    node.outcome("1")
    folder, whole = back_up(node, "folder"), back_up(node)
    node.stop()
    target = tmp_path / "target"
    data = bytearray(whole.read_bytes())
    flipped = tmp_path / "flipped.tar"
    data[data.index((node.config / "comm.conf").read_bytes())] ^= 1
    flipped.write_bytes(data)
    assert "config/comm.conf" in refusal(flipped, "--into", target)
    short = tmp_path / "short.tar"
    short.write_bytes(whole.read_bytes()[:20_000])
    assert "short.tar" in refusal(short, "--into", target)
    with (folder / "state/api.journal").open("r+b") as file:
        file.seek(5_000)
        file.write(b"damage")
    assert "state/api.journal" in refusal(folder, "--into", target)
    (tmp_path / "text.tar").write_text("no tar")
    assert "is not a backup" in refusal(tmp_path / "text.tar", "--into", target)
    assert "no manifest.json" in refusal(node.config, "--into", target)
    assert not target.exists()


@pytest.mark.parametrize(("name", "kind"), [("../evil", b"0"), ("/evil", b"0"), ("link", b"2")])
def test_a_backup_cannot_write_outside_of_the_new_folder(tmp_path, name, kind):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, "/etc/passwd", 1 if kind == b"0" else 0
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.addfile(member, io.BytesIO(b"x"))
    assert "is not a backup" in refusal(tmp_path / "evil.tar", "--into", tmp_path / "a/state")
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "a/state").exists()


def test_a_backup_of_a_node_that_does_not_run_is_the_same(make):
    node = make().start()
    run_id = node.outcome("1")["run"]
    node.process.send_signal(signal.SIGKILL)
    node.process.wait()
    restored, _ = restore(make, back_up(node))
    assert [run.id for run in restored.runs()] == [run_id]
    assert restored.problems() == []
