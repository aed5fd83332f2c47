"""Questions about the runs of a history: find, count, group."""

from __future__ import annotations

import msgspec
import pytest
from disk_journals import sqlite_journal

from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.domain.facts import Accepted, Settled, StepFailed
from fractal_rm.domain.flow import Call, Flow, Method, flow_version
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import WrongCursor
from fractal_rm.testing.journal import begun, entry, write

CALLS = Flow("9", steps=(Call(1, "boiler", "e", Method.GET), Call(2, "pump", "e", Method.GET)))


async def test_a_repeated_and_a_discarded_run_are_handled(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    for name in ("a", "b", "c"):
        await journal.accept(entry(name, flow=CALLS))
        run = begun(name, CALLS)
        await write(journal, run, StepFailed(2, 1, "timed out after 7 ms", final=True))
        await write(journal, run, Settled(State.FAILED, "timed out after 7 ms"))
    version = flow_version(CALLS)
    again = Accepted("9", version, msgspec.Raw(b"1"), "replay", replays="a", actor="anna")
    await journal.accept(entry("d", flow=CALLS, facts=(again,)))
    await journal.close(clean=True)
    history = SqliteHistory(tmp_path)
    found = history.find(RunFilter(handled=False, component="pump", text="TIMED"))
    assert [run.id for run in found.runs] == ["c", "b"]
    assert history.handled(["a", "b"]).keys() == {"a"}
    assert history.handled(["a"])["a"].by_run == "d"
    assert [run.id for run in history.replays_of("a")] == ["d"]
    assert [(group.component, group.count) for group in history.failures().groups] == [("pump", 3)]
    with pytest.raises(WrongCursor):
        history.find(cursor="?")
