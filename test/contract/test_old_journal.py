"""A node resumes the open runs in the journal of an older release whose process was killed.

Its facts have no causes. In a fact `Placed`, the node None stands for this node.
"""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from msgspec import UNSET

from engine_stage import ManualClock, Stage, until
from fractal_rm.adapters.journal_files import open_journal
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import Accepted, Placed, Settled, StepFailed
from fractal_rm.domain.handoff.messages import Receipt
from fractal_rm.domain.state import Placement, State
from fractal_rm.engine.node import Node

OLD_JOURNAL_SQL = Path(__file__).with_name("journal_of_format_4.sql").read_text()
# Comments in the file have the name and the id of each run.
RUN_IDS = dict(re.findall(r"^-- ([a-z-]+): ([0-9A-Z]{26})$", OLD_JOURNAL_SQL, re.MULTILINE))
KILLED_MS = 1_790_000_000_000


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "up.journal"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(OLD_JOURNAL_SQL)
    return path


def journal_at(path: Path):
    return open_journal(
        path, limits=lambda: (10**9, 10**10), retention_ms=lambda: KILLED_MS, on_lost=pytest.fail
    )


def stage_with(path: Path) -> Stage:
    stage = Stage(clock=ManualClock(KILLED_MS + 1_000))
    stage.dependencies.journal = journal_at(path)
    stage.node = Node(stage.dependencies, {})
    return stage


def facts(path: Path, name: str):
    return [timed.fact for timed in SqliteHistory(path.parent).run(RUN_IDS[name]).facts]


async def test_the_old_journal_is_valid_and_can_be_read(path):
    assert check_journal(path).problems == []
    stopped, settled = facts(path, "failed")[-2:]
    assert isinstance(stopped, StepFailed)
    assert (stopped.cause, stopped.answer) == (UNSET, UNSET)
    assert isinstance(settled, Settled)
    assert settled.reason == "step 1, a 1: status 500: out of order"


async def test_open_runs_of_the_old_journal_have_the_states_that_they_had(path):
    journal = journal_at(path)
    open_runs = {run.id: run for run in (await journal.open()).runs}
    await journal.close(clean=True)
    found_states = {
        name: (run.state, run.placement, run.accepted.node, run.node)
        for name, run_id in RUN_IDS.items()
        if (run := open_runs.get(run_id)) is not None
    }
    assert found_states == {
        "running": (State.RUNNING, Placement.HERE, UNSET, None),
        "offered": (State.OFFERED, Placement.OFFERED, UNSET, "3"),
        "accepted": (State.ACCEPTED, Placement.NOT_YET, UNSET, None),
        "by-sender": (State.ACCEPTED, Placement.BY_SENDER, UNSET, None),
    }


async def test_open_runs_of_the_old_journal_are_resumed_and_end(path):
    stage, offers = stage_with(path), []

    async def accept_offer(node, offer):
        offers.append((node.id, offer.run, offer.epoch, offer.sender))
        return Receipt(offer.run, offer.epoch)

    stage.peers.answer_offer = accept_offer
    async with stage:
        await until(lambda: stage.node.unfinished == 0)
        new = await stage.send("1")
        await until(lambda: stage.node.unfinished == 0)
    assert offers == [("3", RUN_IDS["offered"], 1, "1")]
    ends = {
        name: SqliteHistory(path.parent).run(run_id).summary for name, run_id in RUN_IDS.items()
    }
    assert {name: (end.state, end.node) for name, end in ends.items()} == {
        "succeeded": (State.SUCCEEDED, None),
        "failed": (State.FAILED, None),
        "running": (State.SUCCEEDED, None),
        "offered": (State.HANDED_OFF, "3"),
        "accepted": (State.SUCCEEDED, None),
        "by-sender": (State.SUCCEEDED, None),
    }
    placed = {name: of_kind(facts(path, name), Placed) for name in ("accepted", "by-sender")}
    assert placed == {
        "accepted": [Placed(None, "the balancer chose this node", cause=Cause.BALANCER)],
        "by-sender": [Placed(None, "the sender placed the run here", cause=Cause.BY_SENDER)],
    }
    assert len(of_kind(facts(path, "running"), Placed)) == 1
    new_facts = [timed.fact for timed in SqliteHistory(path.parent).run(new.run).facts]
    assert [fact.node for fact in of_kind(new_facts, (Accepted, Placed))] == ["1", "1"]
    assert check_journal(path).problems == []


def of_kind(facts, kind):
    return [fact for fact in facts if isinstance(fact, kind)]
