"""Facts name nodes absolutely: a node without ``node.id`` has an id that its state folder keeps."""

import os
import threading

import msgspec
import pytest

from fractal_rm.adapters.lock import FileLock
from fractal_rm.adapters.memory.journal import Disk
from fractal_rm.adapters.node_id import FILE, NodeIdUnreadable, kept_node_id
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.adapters.world import SystemRandom
from fractal_rm.cli.main import EXIT_CANNOT
from fractal_rm.domain.facts import Accepted, Placed
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.handoff import Receipt
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import Placement, State
from worlds import ManualClock, Stage, until


def kept(folder):
    return kept_node_id(folder, SystemRandom())


def test_it_is_made_once(tmp_path):
    first = kept(tmp_path)
    assert (tmp_path / FILE).read_text() == f"{first}\n"
    assert kept(tmp_path) == first
    assert len(first) == 12


def test_processes_that_make_it_at_once_have_the_same(tmp_path):
    found = []
    threads = [threading.Thread(target=lambda: found.append(kept(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert set(found) == {kept(tmp_path)}


def test_one_that_another_process_makes_for_ever_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("fractal_rm.adapters.node_id.RETRY_S", 0)
    lock = FileLock(tmp_path / f"{FILE}.lock")
    with pytest.raises(NodeIdUnreadable, match="another process"):
        kept(tmp_path)
    lock.release()


@pytest.mark.parametrize(
    "content", [b"", b"0123456789a", b"0123456789AB", b"0123456789ab0", b"\xff\0", b"7\n"]
)
def test_a_file_that_holds_none_is_not_replaced_unasked(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(NodeIdUnreadable, match=r"does not hold the id of a node.*delete the file"):
        kept(tmp_path)
    assert (tmp_path / FILE).read_bytes() == content


def test_a_folder_that_cannot_be_used_is_said_with_the_cure(tmp_path):
    (tmp_path / FILE).mkdir()
    with pytest.raises(NodeIdUnreadable, match=r"node-id.*node\.id in comm\.conf"):
        kept(tmp_path)
    with pytest.raises(NodeIdUnreadable, match="No such file or directory"):
        kept(tmp_path / "gone")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only_is_said_with_the_cure(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(NodeIdUnreadable, match=r"Permission denied.*node\.id in comm\.conf"):
        kept(tmp_path)


def test_a_node_that_starts_without_an_id_keeps_one_and_its_facts_say_it(make):
    node = make().start()
    _, _, taken = node.trigger("2", Prefer="wait=30")
    assert taken["state"] == "succeeded"
    node.stop()
    own = (node.state / FILE).read_text().strip()
    facts = [timed.fact for timed in SqliteHistory(node.state).run(taken["run"]).facts]
    assert [each.node for each in facts if isinstance(each, Accepted | Placed)] == [own, own]
    (run,) = SqliteHistory(node.state).runs()
    assert run.node is None  # people see what went elsewhere


def test_a_node_whose_id_is_damaged_does_not_start(make):
    node = make()
    node.state.mkdir(parents=True)
    (node.state / FILE).write_bytes(b"damaged")
    node.launch()
    assert node.process.wait(30) == EXIT_CANNOT
    assert f"{FILE} does not hold the id of a node" in node.log
    assert "Traceback" not in node.log
    node.edit("comm", node__id="7")
    node.start()
    _, _, taken = node.trigger("2", Prefer="wait=30")
    (placed,) = [
        timed.fact
        for timed in SqliteHistory(node.state).run(taken["run"]).facts
        if isinstance(timed.fact, Placed)
    ]
    assert placed.node == "7"


# --- runs keep the name of the node that has taken them -------------------------------------------


def named(node_id: str | None, **how) -> Stage:
    stage = Stage(**how)
    stage.world.config = msgspec.structs.replace(stage.world.config, node_id=node_id)
    return stage


async def test_a_run_that_was_placed_here_stays_here_although_the_node_has_another_id_now():
    disk, clock = Disk(), ManualClock()
    async with named("1", disk=disk, clock=clock) as first:
        first.node.pause(True)
        taken = await first.send("5")
        first.crash()
    async with named("9", disk=disk, clock=clock) as second:  # it is placed by this one
        second.holds("a/1")
        await until(lambda: "a/1" in second.called())
        second.crash()
    third = named("8", disk=disk, clock=clock)
    third.balancer.answer = "3"  # which is not asked again
    async with third:
        assert (await third.ended(taken.run)).state is State.SUCCEEDED
    placed = [fact for fact in disk.facts(taken.run) if isinstance(fact, Placed)]
    assert [fact.node for fact in placed] == ["1"]


async def test_an_id_that_the_configuration_no_longer_has_is_the_kept_one():
    async with named("1") as stage:
        await stage.node.reconfigure(msgspec.structs.replace(stage.world.config, node_id=None))
        taken = await stage.send("1")
        await stage.ended(taken.run)
        assert stage.disk.facts(taken.run)[0].node == "kept"


async def test_a_peer_is_told_who_offers_also_by_a_node_without_an_id_of_its_own():
    senders = []

    async def take(_node, offer):
        senders.append(offer.sender)
        return Receipt(offer.run, offer.epoch)

    async with named(None) as stage:
        stage.balancer.answer, stage.peers.take = "3", take
        assert (await stage.run("1")).state is State.HANDED_OFF
    assert senders == ["kept"]


def test_a_fact_that_names_the_node_that_has_taken_the_run_means_here():
    accepted = Accepted("1", "v", msgspec.Raw(b"1"), "mqtt", node="abc")
    new = Run("R", Flow("1"), 0)
    assert fold(new, [accepted, Placed("abc", "why")]).placement is Placement.HERE
    assert new.node is None
    other = fold(Run("R", Flow("1"), 0), [accepted, Placed("2", "why")])
    assert (other.placement, other.node) == (Placement.NAMED, "2")
