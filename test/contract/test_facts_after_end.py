"""Facts of runs that have ended: they are kept, and change neither the state nor the counts."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from disk_journals import ManualRetentionClock, let_a_day_pass, open_and_close, sqlite_journal

from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.adapters.sqlite.repair import repair
from fractal_rm.domain.facts import Dead, Discarded, Settled
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import begun, entry, write

NOTE = Discarded("anna", "the cable was loose", "request 1")
LETTER = Dead("malformed", "not JSON", "mqtt", b"{")


async def write_ended_run(journal, run_id="A", state=State.FAILED) -> Run:
    await journal.accept(entry(run_id))
    run = begun(run_id)
    await write(journal, run, Settled(state, "no"), 1_005)
    return run


async def write_dead_letter(journal, run_id="D") -> Run:
    await journal.accept(entry(run_id, flow=None, facts=(LETTER,)))
    return fold(Run(run_id, Flow(""), 1_000), [LETTER])


def last_fact(folder, run_id="A"):
    return SqliteHistory(folder).run(run_id).facts[-1].fact


def is_sound(folder) -> bool:
    return check_journal(folder / "up.journal").problems == []


@pytest.mark.parametrize("copied", ["nothing", "the end", "both"])
@pytest.mark.parametrize("write_run", [write_ended_run, write_dead_letter])
async def test_a_fact_after_the_end_is_kept_over_a_crash_and_a_later_copy(
    tmp_path, copied, write_run
):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    run = await write_run(journal)
    if copied != "nothing":
        await journal.update_history()
    await write(journal, run, NOTE, 2_000)
    if copied == "both":
        await journal.update_history(open_runs=False)
    journal.crash()
    for _ in range(2):  # before and after the rest of the log is copied
        detail = SqliteHistory(tmp_path).run(run.id)
        assert detail.facts[-1].fact == NOTE
        assert detail.summary.state is run.state
        assert detail.summary.settled_ms == detail.facts[-2].at_ms
        assert is_sound(tmp_path)
        recovered = await open_and_close(tmp_path)
        assert recovered.runs == []


async def test_a_fact_after_the_end_is_copied_once_if_only_ended_runs_are_copied(tmp_path):
    """The log is read again from the place where the oldest open run was not copied yet."""
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("open"))
    run = await write_ended_run(journal)
    await write(journal, run, NOTE)
    await journal.update_history(open_runs=False)
    journal.crash()
    await open_and_close(tmp_path)
    facts = [each.fact for each in SqliteHistory(tmp_path).run("A").facts]
    assert facts.count(NOTE) == 1
    assert is_sound(tmp_path)


async def test_end_and_discard_in_one_turn_are_both_kept(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A"))
    run = begun("A")
    _ = write(journal, run, Settled(State.FAILED, "no"))
    await write(journal, run, NOTE)
    journal.crash()
    assert last_fact(tmp_path) == NOTE
    await open_and_close(tmp_path)
    assert last_fact(tmp_path) == NOTE
    assert is_sound(tmp_path)


async def test_a_purged_run_gets_no_fact(tmp_path):
    clock = ManualRetentionClock()
    journal = sqlite_journal(tmp_path, keep=(3_600, 1 << 30), retention_ms=clock)
    await journal.open()
    run = await write_ended_run(journal)
    await let_a_day_pass(journal, clock)
    await write(journal, run, NOTE)
    await journal.close(clean=True)
    detail = SqliteHistory(tmp_path).run("A")
    assert detail is None or detail.facts == []
    assert is_sound(tmp_path)


async def test_the_size_of_runs_in_trouble_includes_facts_after_the_end(tmp_path):
    clock = ManualRetentionClock()
    journal = sqlite_journal(tmp_path, keep=(3_600, 1 << 30), retention_ms=clock)
    await journal.open()
    run = await write_ended_run(journal)
    await journal.update_history()
    await write(journal, run, NOTE)
    await let_a_day_pass(journal, clock)
    await journal.close(clean=True)
    with closing(sqlite3.connect(tmp_path / "up.journal")) as db:
        rows = db.execute("SELECT value FROM meta WHERE name = 'trouble_bytes'")
        assert rows.fetchone() == (0,)


@pytest.mark.parametrize("copied", [False, True])
async def test_a_repair_keeps_facts_after_the_end(tmp_path, copied):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    run = await write_ended_run(journal)
    if copied:
        await journal.update_history()
    await write(journal, run, NOTE, 2_000)
    if copied:
        await journal.close(clean=True)
    else:
        journal.crash()
    repair(tmp_path / "up.journal")
    detail = SqliteHistory(tmp_path).run("A")
    assert detail.facts[-1].fact == NOTE
    assert (detail.summary.state, detail.summary.settled_ms) == (State.FAILED, 1_005)
    assert is_sound(tmp_path)


async def test_a_run_whose_end_is_lost_in_the_log_keeps_its_discard(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    run = await write_ended_run(journal)
    await write(journal, run, NOTE)
    journal.crash()
    segment = next((tmp_path / "up.log").iterdir())
    data = segment.read_bytes()
    at = data.index(b'["end","A"')
    segment.write_bytes(data[:at] + b"X" + data[at + 1 :])
    repair(tmp_path / "up.journal")
    detail = SqliteHistory(tmp_path).run("A")
    assert detail.summary.state is State.UNKNOWN
    assert detail.facts[-1].fact == NOTE
    assert is_sound(tmp_path)
