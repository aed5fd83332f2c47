"""Actions on a node whose journal is on a disk: large values, restarts, and the audit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine_stage import ManualClock, Stage
from fractal_rm.adapters.journal_files import open_journal
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.adapters.sqlite.write.limits import HistoryLimits
from fractal_rm.domain.actions import (
    ActionRequest,
    AlreadyHandled,
    Cancel,
    Discard,
    NoLongerKept,
    Replay,
    Send,
    WrongState,
)
from fractal_rm.domain.expression import Payload, Result
from fractal_rm.domain.facts import Accepted, Discarded
from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Arrival, TriggerSource
from steps import flow, get, post

LARGE = "x" * 100_000  # stored in a file of its own
FLOW = flow(post(1, "a 1", Payload()), get(2, "slow 1"), post(3, "b 1", Result(1)))
DAY_S, GIB = 86_400, 1 << 30


def fail_test(error: JournalError) -> None:
    raise AssertionError(error)


class DiskNode:
    """A node with a journal in a folder. ``keep_s`` is how long it keeps ended runs."""

    def __init__(self, folder: Path, clock: ManualClock, keep_s=7 * DAY_S) -> None:
        self.folder = folder
        journal = open_journal(
            folder / "up.journal",
            limits=lambda: HistoryLimits(keep_s, GIB, keep_s, GIB),
            retention_ms=lambda: clock.read().retention_ms,
            on_lost=fail_test,
            purge_every_s=0,
        )
        self.stage = Stage(clock=clock, journal=journal, flows={"9": FLOW})
        self.stage.dependencies.make_past_runs = lambda: SqliteHistory(folder)
        self.journal = journal
        self.history = SqliteHistory(folder)

    async def __aenter__(self) -> DiskNode:
        await self.stage.node.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stage.node.drain()

    def act(self, action, actor="anna", request_id="r1"):
        return self.stage.node.act(ActionRequest(action, actor, request_id))

    async def run(self, **keys) -> str:
        run_id = (await self.stage.send("9", **keys)).run
        await self.stage.node.outcome(run_id, 10)
        return run_id

    async def fail(self, **keys) -> str:
        """Make a run whose second step fails. Returns its id."""
        self.stage.set_answer("slow/1", "no", 500)
        run_id = await self.run(**keys)
        self.stage.set_answer("slow/1", "yes")
        self.stage.components.requests.clear()
        return run_id

    def state(self, run_id: str) -> State:
        return self.history.run(run_id).summary.state

    def is_sound(self) -> bool:
        counts = self.history.flow_counts()
        balanced = all(sum(each.states.values()) == each.received for each in counts)
        return balanced and check_journal(self.folder / "up.journal").problems == []


@pytest.mark.parametrize("copied", [True, False])
async def test_large_values_are_taken_over_and_the_same_request_finds_its_run_after_a_restart(
    tmp_path, copied
):
    clock = ManualClock()
    async with DiskNode(tmp_path, clock) as node:
        node.stage.set_answer("a/1", LARGE)
        original = await node.fail(payload=LARGE)
        if copied:
            await node.journal.update_history()
        done = await node.act(Replay(original, from_step=2))
        await node.stage.node.outcome(done.new_run, 10)
        assert node.stage.called_endpoints() == ["slow/1", "b/1"]
        assert json.loads(node.stage.components.requests[-1].body) == {"payload": [LARGE]}
        first = node.history.run(done.new_run).facts[0].fact
        assert isinstance(first, Accepted)
        assert json.loads(bytes(first.payload)) == LARGE
    async with DiskNode(tmp_path, clock) as node:
        again = await node.act(Replay(original, from_step=2))
        assert (again.new_run, again.repeated) == (done.new_run, True)
        with pytest.raises(AlreadyHandled):
            await node.act(Replay(original), "ben", "r2")
        (counts,) = node.history.flow_counts()
        assert (counts.received, counts.repeated) == (2, 1)
        assert node.is_sound()


async def test_a_discarded_run_is_known_as_such_after_a_restart_and_in_the_audit(tmp_path):
    clock = ManualClock()
    async with DiskNode(tmp_path, clock) as node:
        failed, letter_before = await node.fail(), set()
        await node.stage.node.set_aside(Arrival(TriggerSource.MQTT, b"{"), Malformed("no"))
        letters = [run.id for run in node.history.runs(state=State.DEAD)]
        (letter,) = set(letters) - letter_before
        await node.act(Discard(failed))
        await node.act(Discard(letter, "a test"), request_id="r2")
        assert node.is_sound()
    async with DiskNode(tmp_path, clock) as node:
        assert (await node.act(Discard(failed))).repeated
        for run_id in (failed, letter):
            assert isinstance(node.history.run(run_id).facts[-1].fact, Discarded)
        with pytest.raises(AlreadyHandled, match="anna discarded it"):
            await node.act(Send(letter, b'{"id_flow": "9", "payload": 1}'), "ben", "r3")
        assert node.is_sound()


async def test_a_run_whose_facts_were_deleted_for_their_age_is_not_repeated(tmp_path):
    clock = ManualClock()
    async with DiskNode(tmp_path, clock, keep_s=3_600) as node:
        original = await node.fail(id="its key keeps its row")
        await node.journal.update_history()
        clock.ms += DAY_S * 1_000 // 2
        for _ in range(2):
            await node.run()
            await node.journal.update_history()
        with pytest.raises(NoLongerKept, match="its facts are too old"):
            await node.act(Replay(original))


async def test_a_run_whose_large_payload_is_lost_is_not_repeated(tmp_path):
    async with DiskNode(tmp_path, ManualClock()) as node:
        original = await node.fail(payload=LARGE)
        await node.journal.update_history()
        for blob in (tmp_path / "up.blobs").iterdir():
            blob.unlink()
        with pytest.raises(NoLongerKept, match="cannot be repeated"):
            await node.act(Replay(original))


async def test_a_cancelled_run_is_refused_with_its_operator_after_a_restart(tmp_path):
    clock = ManualClock()
    async with DiskNode(tmp_path, clock) as node:
        node.stage.node.pause(True)
        run_id = (await node.stage.send("9")).run
        await node.act(Cancel(run_id))
    async with DiskNode(tmp_path, clock) as node:
        assert (await node.act(Cancel(run_id))).repeated
        with pytest.raises(WrongState, match=r"has ended as cancelled at .*, as anna asked"):
            await node.act(Cancel(run_id), "ben", "r2")
        assert node.is_sound()
