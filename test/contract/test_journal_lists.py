"""Lists and counts of the runs in journals."""

from __future__ import annotations

import msgspec
from disk_journals import sqlite_journal, write_open_runs

from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.domain.facts import (
    Finished,
    Placed,
    Settled,
    StepFailed,
)
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import (
    begun,
    entry,
    write,
)


async def test_lists_and_counts_cover_all_journals_of_a_node(tmp_path):
    for name in ("mqtt", "api"):
        journal = sqlite_journal(tmp_path, name)
        await journal.open()
        await journal.accept(entry(f"{name}-1", key=name))
        await journal.accept(entry(f"{name}-2", key=name))
        await write(journal, begun(f"{name}-1"), Settled(State.SUCCEEDED))
        await journal.close(clean=True)
    history = SqliteHistory(tmp_path)
    assert [run.journal for run in history.runs()] == ["mqtt", "api"]
    (counts,) = history.flow_counts()
    assert (counts.received, counts.duplicates) == (2, 2)
    assert dict(counts.states) == {State.SUCCEEDED: 2}


async def test_a_list_does_not_show_why_an_earlier_attempt_failed(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("run"))
    run = begun("run")
    for fact in (
        Placed(None, "placed by the balancer"),
        StepFailed(1, 1, "connection refused"),
        Finished(1, 200, 0.1, msgspec.Raw(b'"r"')),
        Settled(State.SUCCEEDED),
    ):
        await write(journal, run, fact)
    await journal.close(clean=True)
    (listed,) = SqliteHistory(tmp_path).runs()
    assert (listed.state, listed.reason) == (State.SUCCEEDED, "placed by the balancer")


async def test_the_pages_of_a_list_have_no_gap_and_no_overlap(tmp_path):
    await write_open_runs(tmp_path, runs=7)
    history = SqliteHistory(tmp_path)
    first = history.runs(limit=4)
    second = history.runs(limit=4, before=first[-1].id)
    assert [run.id for run in first + second] == [f"run-{n}" for n in reversed(range(7))]
