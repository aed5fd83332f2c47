"""The age of runs: purges, times on the retention clock, and journals of earlier releases."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest
from disk_journals import (
    DAY_S,
    GIB,
    ManualRetentionClock,
    let_a_day_pass,
    open_and_close,
    sqlite_journal,
    write_open_runs,
)

from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.adapters.sqlite.format.schema import FORMAT, OLDEST
from fractal_rm.domain.facts import (
    Parked,
    Settled,
)
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import (
    append_fact,
    begun,
    entry,
    write,
)
from old_journals import convert_to_format


async def test_runs_that_are_older_than_the_limit_are_purged_except_open_runs(tmp_path):
    clock = ManualRetentionClock()
    journal = sqlite_journal(tmp_path, keep=(60, GIB), retention_ms=clock)
    await journal.open()
    await journal.accept(entry("open", at_ms=0))
    for n in range(20):
        await journal.accept(entry(f"old-{n}", at_ms=1_000))
        await write(journal, begun(f"old-{n}"), Settled(State.SUCCEEDED))
    await let_a_day_pass(journal, clock)
    await journal.close(clean=True)
    history = SqliteHistory(tmp_path)
    assert {run.id for run in history.runs(limit=100)} == {"open", "a day later", "just after"}
    assert check_journal(tmp_path / "up.journal").problems == []


@pytest.mark.parametrize("jumped_ms", [50 * 365 * DAY_S * 1_000, -50 * 365 * DAY_S * 1_000])
async def test_the_age_of_history_does_not_depend_on_the_wall_clock(tmp_path, jumped_ms):
    start_ms, minute_ms = 1_800_000_000_000, 60_000
    clock = ManualRetentionClock()
    journal = sqlite_journal(tmp_path, keep=(600, GIB), retention_ms=clock)
    clock.ms = start_ms
    await journal.open()
    for n in range(20):  # one run per minute; during runs 5 to 9, the wall clock is wrong
        wall_ms = clock.ms + (jumped_ms if 5 <= n < 10 else 0)
        await journal.accept(entry(f"run-{n:02}", at_ms=wall_ms))
        await write(journal, begun(f"run-{n:02}"), Settled(State.SUCCEEDED), wall_ms)
        await journal.update_history()
        clock.ms += minute_ms
    for n in range(3):
        await journal.accept(entry(f"later-{n}", at_ms=clock.ms))
        await journal.update_history()
    await journal.close(clean=True)
    run_ids = [run.id for run in SqliteHistory(tmp_path).runs(limit=100)]
    assert sorted(run_ids) == ["later-0", "later-1", "later-2"] + [
        f"run-{n}" for n in range(10, 20)
    ]
    assert check_journal(tmp_path / "up.journal").problems == []


async def test_if_no_run_has_ended_the_latest_time_of_a_journal_is_when_the_last_run_was_accepted(
    tmp_path,
):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("one", at_ms=1_000))
    await journal.accept(entry("other", at_ms=2_000))
    await journal.close(clean=True)
    assert (await open_and_close(tmp_path)).latest_ms == 2_000


@pytest.mark.parametrize("jumped_ms", [0, 50 * 365 * DAY_S * 1_000])
async def test_the_latest_time_of_a_journal_does_not_depend_on_the_wall_clock(tmp_path, jumped_ms):
    clock = ManualRetentionClock()
    journal = sqlite_journal(tmp_path, retention_ms=clock)
    assert (await journal.open()).latest_ms is None
    clock.ms = 1_800_000_000_000
    await journal.accept(entry("open", at_ms=1_799_999_000_000))
    wall_ms = 1_800_000_000_000 + jumped_ms
    await journal.accept(entry("ended", at_ms=wall_ms))
    await write(journal, begun("ended"), Settled(State.SUCCEEDED), wall_ms)
    await journal.close(clean=True)
    assert (await open_and_close(tmp_path)).latest_ms == 1_800_000_000_000


@pytest.mark.parametrize("written_by", range(OLDEST, FORMAT))
async def test_a_journal_of_an_earlier_release_is_read_and_converted(tmp_path, written_by):
    await write_open_runs(tmp_path, runs=3)
    path = tmp_path / "up.journal"
    convert_to_format(path, written_by)
    assert [run.id for run in SqliteHistory(tmp_path).runs()] == ["run-2", "run-1", "run-0"]
    assert check_journal(path).problems == []
    journal = sqlite_journal(tmp_path)
    _, second_run, _ = (await journal.open()).runs
    await write(journal, second_run, Settled(State.SUCCEEDED))
    prior = await journal.accept(entry("again", key="key-0"))
    assert prior is not None
    assert prior.run_id == "run-0"
    await journal.close(clean=True)
    assert [run.id for run in (await open_and_close(tmp_path)).runs] == ["run-0", "run-2"]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (FORMAT,)
    assert check_journal(path).problems == []


async def test_ended_runs_are_purged_even_if_a_thousand_parked_runs_are_older(tmp_path):
    clock = ManualRetentionClock()
    journal = sqlite_journal(tmp_path, keep=(60, GIB), retention_ms=clock)
    await journal.open()
    names = [f"parked-{n:04}" for n in range(1_000)]
    await asyncio.gather(*(journal.accept(entry(name)) for name in names))
    for name in names:
        append_fact(journal, begun(name), Parked("no peer answers"))
    await journal.accept(entry("old"))
    await write(journal, begun("old"), Settled(State.SUCCEEDED))
    await let_a_day_pass(journal, clock)
    for n in range(4):  # each update purges some runs
        await journal.accept(entry(f"later-{n}", at_ms=DAY_S * 1_000))
        await journal.update_history()
    await journal.close(clean=True)
    history = SqliteHistory(tmp_path)
    assert history.run("old") is None
    assert len(history.runs(state=State.PARKED, limit=2_000)) == 1_000


async def test_a_run_is_found_by_its_key_after_its_facts_were_purged(tmp_path):
    clock = ManualRetentionClock()
    journal = sqlite_journal(tmp_path, keep=(60, GIB), retention_ms=clock)
    await journal.open()
    await journal.accept(entry("old", key="k", at_ms=1_000, window_ms=2 * DAY_S * 1_000))
    await write(journal, begun("old"), Settled(State.SUCCEEDED))
    await let_a_day_pass(journal, clock)
    prior = await journal.find("k", DAY_S * 1_000)
    assert prior is not None
    assert prior.run_id == "old"
    await journal.close(clean=True)
    assert SqliteHistory(tmp_path).run("old").facts == []
    assert check_journal(tmp_path / "up.journal").problems == []


async def test_keys_and_history_are_kept_if_the_wall_clock_is_ten_years_ahead_for_one_run(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("first", key="k"))
    await write(journal, begun("first"), Settled(State.SUCCEEDED))
    await journal.accept(entry("in ten years", at_ms=3_650 * DAY_S * 1_000))
    for n in range(3):
        await journal.accept(entry(f"after-{n}", at_ms=1_002))
    assert (await journal.find("k", 1_002)).run_id == "first"
    assert (await journal.accept(entry("again", key="k", at_ms=1_002))).run_id == "first"
    await journal.close(clean=True)
    assert len(SqliteHistory(tmp_path).run("first").facts) == 2
