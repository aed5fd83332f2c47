"""A node without ``node.id`` in its configuration uses the id in its state folder."""

import os
import threading

import msgspec
import pytest

from engine_stage import ManualClock, Stage, until
from fractal_rm.adapters.lock import FileLock
from fractal_rm.adapters.memory.journal import JournalContent
from fractal_rm.adapters.node_id import NODE_ID, NodeIdUnreadable, stored_node_id
from fractal_rm.adapters.operating_system import SystemRandom
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.cli.exits import EXIT_FAILED
from fractal_rm.domain.facts import Accepted, Placed
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.handoff.messages import Receipt
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import Placement, State


def node_id(folder):
    return stored_node_id(folder, SystemRandom())


def test_the_id_is_created_once(tmp_path):
    first = node_id(tmp_path)
    assert (tmp_path / NODE_ID.name).read_text() == f"{first}\n"
    assert node_id(tmp_path) == first
    assert len(first) == 12


def test_processes_that_create_the_id_at_the_same_time_get_the_same_id(tmp_path):
    ids = []
    threads = [threading.Thread(target=lambda: ids.append(node_id(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8
    assert set(ids) == {node_id(tmp_path)}


def test_the_wait_for_another_process_that_creates_the_id_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr("fractal_rm.adapters.node_id.RETRY_S", 0)
    lock = FileLock(tmp_path / f"{NODE_ID.name}.lock")
    with pytest.raises(NodeIdUnreadable, match="another process"):
        node_id(tmp_path)
    lock.release()


@pytest.mark.parametrize(
    "content", [b"", b"0123456789a", b"0123456789AB", b"0123456789ab0", b"\xff\0", b"7\n"]
)
def test_a_file_without_a_valid_id_is_an_error_and_is_not_replaced(tmp_path, content):
    (tmp_path / NODE_ID.name).write_bytes(content)
    with pytest.raises(NodeIdUnreadable, match="does not have the id of this node"):
        node_id(tmp_path)
    assert (tmp_path / NODE_ID.name).read_bytes() == content


def test_an_unusable_folder_is_an_error_with_a_hint(tmp_path):
    (tmp_path / NODE_ID.name).mkdir()
    with pytest.raises(NodeIdUnreadable, match=r"node-id.*node\.id in comm\.conf"):
        node_id(tmp_path)
    with pytest.raises(NodeIdUnreadable, match="No such file or directory"):
        node_id(tmp_path / "gone")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_an_error_with_a_hint(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(NodeIdUnreadable, match=r"Permission denied.*node\.id in comm\.conf"):
        node_id(tmp_path)


def test_a_node_without_an_id_creates_one_and_records_it_in_facts(make):
    node = make().start()
    _, _, answer = node.trigger("2", Prefer="wait=30")
    assert answer["state"] == "succeeded"
    node.stop()
    stored_id = (node.state / NODE_ID.name).read_text().strip()
    facts = [timed.fact for timed in SqliteHistory(node.state).run(answer["run"]).facts]
    assert [each.node for each in facts if isinstance(each, Accepted | Placed)] == [
        stored_id,
        stored_id,
    ]
    (run,) = SqliteHistory(node.state).runs()
    assert run.node is None  # the run was executed on this node


def test_a_node_whose_id_is_damaged_does_not_start(make):
    node = make()
    node.state.mkdir(parents=True)
    (node.state / NODE_ID.name).write_bytes(b"damaged")
    node.launch()
    assert node.process.wait(30) == EXIT_FAILED
    assert f"{NODE_ID.name} does not have the id of this node" in node.log
    assert "Traceback" not in node.log
    node.edit("comm", node__id="7")
    node.start()
    _, _, answer = node.trigger("2", Prefer="wait=30")
    (placed,) = [
        timed.fact
        for timed in SqliteHistory(node.state).run(answer["run"]).facts
        if isinstance(timed.fact, Placed)
    ]
    assert placed.node == "7"


# --- runs keep the id of the node that accepted them ----------------------------------------------


def stage_with_id(node_id: str | None, **options) -> Stage:
    """A stage whose configuration has this node id."""
    stage = Stage(**options)
    stage.dependencies.config = msgspec.structs.replace(stage.dependencies.config, node_id=node_id)
    return stage


async def test_a_run_that_was_placed_here_runs_here_after_a_change_of_the_node_id():
    disk, clock = JournalContent(), ManualClock()
    async with stage_with_id("1", disk=disk, clock=clock) as first:
        first.node.pause(True)
        accepted = await first.send("5")
        first.crash()
    async with stage_with_id("9", disk=disk, clock=clock) as second:  # this process places the run
        second.block_calls("a/1")
        await until(lambda: "a/1" in second.called_endpoints())
        second.crash()
    third = stage_with_id("8", disk=disk, clock=clock)
    third.balancer.answer = "3"  # has no effect: the run has a place
    async with third:
        assert (await third.wait_for_outcome(accepted.run)).state is State.SUCCEEDED
    placed = [fact for fact in disk.facts(accepted.run) if isinstance(fact, Placed)]
    assert [fact.node for fact in placed] == ["1"]


async def test_without_an_id_in_the_configuration_the_stored_id_is_used():
    async with stage_with_id("1") as stage:
        await stage.node.reconfigure(
            msgspec.structs.replace(stage.dependencies.config, node_id=None)
        )
        accepted = await stage.send("1")
        await stage.wait_for_outcome(accepted.run)
        assert stage.disk.facts(accepted.run)[0].node == "stored"


async def test_an_offer_has_the_stored_id_as_its_sender():
    senders = []

    async def take(_node, offer):
        senders.append(offer.sender)
        return Receipt(offer.run, offer.epoch)

    async with stage_with_id(None) as stage:
        stage.balancer.answer, stage.peers.answer_offer = "3", take
        assert (await stage.run("1")).state is State.HANDED_OFF
    assert senders == ["stored"]


def test_a_run_is_placed_here_if_its_node_is_the_node_that_accepted_it():
    accepted = Accepted("1", "v", msgspec.Raw(b"1"), "mqtt", node="abc")
    run_here = Run("R", Flow("1"), 0)
    assert fold(run_here, [accepted, Placed("abc", "why")]).placement is Placement.HERE
    assert run_here.node is None
    run_elsewhere = fold(Run("R", Flow("1"), 0), [accepted, Placed("2", "why")])
    assert (run_elsewhere.placement, run_elsewhere.node) == (Placement.NAMED, "2")
