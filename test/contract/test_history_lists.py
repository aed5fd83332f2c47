"""Lists of runs by flow and state. They use the tables `spans` and `faults`."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

import msgspec
import pytest
from disk_journals import sqlite_journal
from test_history_kills import store_at

from fractal_rm.adapters.log.history import Projected
from fractal_rm.adapters.log.run_updates import RunStart, RunUpdate, RunUpdates
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.domain.facts import Accepted, Settled, StepFailed
from fractal_rm.domain.flow import Call, Flow, Method, flow_version
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import FLOW, begun, entry, write

STATES = [State.SUCCEEDED] * 12 + [State.FAILED, State.EXPIRED, State.RUNNING]


def random_runs(seed: int, runs: int) -> RunUpdates:
    """Runs of some flows in random states. The ids of a few runs are not in ascending order."""
    random, updates = Random(seed), RunUpdates()
    for n in range(runs):
        flow = "rare" if n % 5_000 == 77 else f"flow-{n % 3}"
        out_of_order = random.random() < 0.01
        run_id = f"{random.randrange(runs) if out_of_order else n:06}-{n}"
        state = random.choice(STATES)
        accepted = Accepted(flow, "v", msgspec.Raw(b"1"), "mqtt")
        fact = msgspec.Raw(msgspec.json.encode((n, accepted)))
        update = RunUpdate(run_id, [fact], state, settled_ms=n + 1 if state.final else None)
        updates.begin(update, RunStart(flow, "v", "mqtt", n, None, "", 0))
    return updates


@pytest.fixture(scope="module")
def history_and_runs(tmp_path_factory) -> tuple[SqliteHistory, RunUpdates]:
    """A history with several blocks of runs, and the runs in it."""
    folder: Path = tmp_path_factory.mktemp("lists")
    store, updates = store_at(folder / "up.journal"), random_runs(7, 20_000)
    store.open()
    store.project(updates, Projected(0, 0))
    store.close(clean=True)
    return SqliteHistory(folder), updates


@pytest.mark.parametrize("flow", [None, "flow-1", "rare", "none"])
@pytest.mark.parametrize("state", [None, State.SUCCEEDED, State.FAILED, State.RUNNING, State.DEAD])
def test_a_list_by_flow_and_state_contains_all_matching_runs(history_and_runs, flow, state):
    history, updates = history_and_runs
    matching_ids = sorted(
        (
            update.run_id for update in updates
            if state in (None, update.state) and flow in (None, update.new.flow)
        ), reverse=True,
    )  # fmt: skip
    assert [run.id for run in history.runs(flow=flow, state=state, limit=30)] == matching_ids[:30]
    for at in (31, len(matching_ids) // 2, len(matching_ids) - 5):
        if 0 <= at < len(matching_ids):
            page = history.runs(flow=flow, state=state, limit=30, before=matching_ids[at])
            assert [run.id for run in page] == matching_ids[at + 1 : at + 31]
    assert history.runs(flow=flow, state=state, limit=30, before="0") == []


def test_a_list_that_matches_no_run_does_not_read_the_rows_of_runs(history_and_runs, monkeypatch):
    history, _ = history_and_runs
    statements = []
    connect = sqlite3.connect

    def traced(*args, **options):
        db = connect(*args, **options)
        db.set_trace_callback(statements.append)
        return db

    monkeypatch.setattr(sqlite3, "connect", traced)
    assert history.runs(flow="rare", state=State.DEAD) == []
    assert [text for text in statements if "no BETWEEN" in text] == []
    with closing(connect(history.folder / "up.journal")) as db:
        (text,) = [text for text in statements if "settled_ms IS NULL" in text]
        assert "USING INDEX open_runs" in str(db.execute(f"EXPLAIN QUERY PLAN {text}").fetchall())
    rare = history.runs(flow="rare", limit=3)
    assert [run.flow for run in rare] == ["rare"] * 3
    assert len([text for text in statements if "no BETWEEN" in text]) <= 3


CALLS = Flow("9", steps=(Call(1, "boiler", "e", Method.GET), Call(2, "pump", "e", Method.GET)))


async def write_failed_runs(folder: Path, *, projected_between: bool) -> None:
    """Write two failed runs whose reasons differ only in a number, and a run with another reason.

    If ``projected_between``, each run is copied to the history before it fails.
    """
    journal = sqlite_journal(folder)
    await journal.open()
    for n, (step, reason) in enumerate([(2, "timed out after 21 ms"), (2, "timed out after 7 ms"),
                                        (1, "answered 503")]):  # fmt: skip
        await journal.accept(entry(f"run-{n}", flow=CALLS))
        run = begun(f"run-{n}", CALLS)
        if projected_between:
            await journal.update_history()
        await write(journal, run, StepFailed(step, 1, reason, final=True))
        await write(journal, run, Settled(State.FAILED, reason))
    if projected_between:
        await journal.close(clean=True)
    else:
        journal.crash()
        restarted = sqlite_journal(folder)
        await restarted.open()
        await restarted.close(clean=True)


@pytest.mark.parametrize("projected_between", [True, False])
async def test_runs_with_the_same_kind_of_failure_refer_to_one_fault(tmp_path, projected_between):
    await write_failed_runs(tmp_path, projected_between=projected_between)
    with closing(sqlite3.connect(tmp_path / "up.journal")) as db:
        rows = db.execute(
            "SELECT runs.id, flow_, component, shape FROM runs JOIN"
            " (SELECT no, flow AS flow_, component, shape FROM faults) AS f ON f.no = runs.fault"
        ).fetchall()
    assert sorted(rows) == [
        ("run-0", "9", "pump", "timed out after # ms"),
        ("run-1", "9", "pump", "timed out after # ms"),
        ("run-2", "9", "boiler", "answered #"),
    ]
    assert check_journal(tmp_path / "up.journal").problems == []


async def test_a_child_run_is_found_by_the_id_of_its_parent(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    first = Accepted(FLOW.id, flow_version(FLOW), msgspec.Raw(b"1"), "flow", origin="parent:2")
    await journal.accept(entry("parent"))
    await journal.accept(entry("child", facts=(first,)))
    await journal.close(clean=True)
    with closing(sqlite3.connect(tmp_path / "up.journal")) as db:
        query = "SELECT id FROM runs WHERE parent = 'parent'"
        assert db.execute(query).fetchall() == [("child",)]
        assert "runs_by_parent" in str(db.execute(f"EXPLAIN QUERY PLAN {query}").fetchall())
