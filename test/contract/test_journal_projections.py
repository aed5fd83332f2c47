"""Projections: a journal copies its log into the history while runs are written."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing

import msgspec
import pytest
from disk_journals import open_and_close, sqlite_journal

from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.domain.facts import (
    Dead,
    Finished,
    RequestStarted,
    Settled,
)
from fractal_rm.domain.journal_errors import (
    JournalFull,
    JournalLocked,
    JournalLost,
)
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import (
    append_fact,
    begun,
    entry,
    write,
)


def block_calls(owner: object, name: str) -> tuple[threading.Event, threading.Event]:
    """Let each call of the method ``name`` wait until an event is set.

    Returns two events: the first is set when the method is called, and calls wait for the second.
    """
    called, resume = threading.Event(), threading.Event()
    method = getattr(owner, name)

    def blocked(*args: object) -> object:
        called.set()
        resume.wait()
        return method(*args)

    setattr(owner, name, blocked)
    return called, resume


async def test_an_error_during_a_purge_ends_the_node(tmp_path):
    reported = asyncio.get_running_loop().create_future()
    journal = sqlite_journal(tmp_path, on_lost=reported.set_result)
    await journal.open()
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("DROP TABLE keys")  # only the purge reads this table in this test
    for name in ("first", "second"):
        await journal.accept(entry(name, flow=None, facts=(Dead("malformed", "not JSON"),)))
        update = asyncio.ensure_future(journal.update_history())
        await asyncio.wait((update, reported), return_when=asyncio.FIRST_COMPLETED)
    assert isinstance(await reported, JournalLost)
    update.cancel()
    journal.crash()


async def test_a_slow_search_does_not_block_the_event_loop(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    searching, resume = block_calls(journal.history, "find")
    accepted = journal.accept(entry("run-1", key="k"))
    await asyncio.to_thread(searching.wait)
    resume.set()
    assert await accepted is None
    await journal.close(clean=True)


async def test_runs_are_accepted_during_a_purge(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("run-1"))
    purging, resume = block_calls(journal.history, "purge")
    await journal.accept(entry("run-2"))
    update = asyncio.ensure_future(journal.update_history())
    await asyncio.to_thread(purging.wait)
    assert await journal.accept(entry("run-3")) is None
    resume.set()
    await update
    await journal.close(clean=True)
    assert len((await open_and_close(tmp_path)).runs) == 3


async def test_an_error_while_runs_are_added_to_the_history_ends_the_node(tmp_path, connections):
    reported = asyncio.get_running_loop().create_future()
    journal = sqlite_journal(tmp_path, on_lost=reported.set_result)
    await journal.open()
    with closing(sqlite3.connect(tmp_path / "up.journal")) as reader:
        # While another connection reads, SQLite does not delete the WAL at the next close.
        reader.execute("SELECT count(*) FROM runs").fetchone()
        connections[0].close()
        await journal.accept(entry("run-1"))
        update = asyncio.ensure_future(journal.update_history())
        assert isinstance(await reported, JournalLost)
    assert not update.done()
    update.cancel()
    journal.crash()


async def test_among_many_simultaneous_triggers_every_duplicate_is_found(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await asyncio.gather(*(journal.accept(entry(f"old-{n}", key=f"k{n}")) for n in range(150)))
    repeated = [entry(f"new-{n}", key=f"k{n}") for n in range(0, 300, 2)]
    priors = await asyncio.gather(*map(journal.accept, repeated))
    assert [prior and prior.run_id for prior in priors] == [
        f"old-{n}" if n < 150 else None for n in range(0, 300, 2)
    ]
    await journal.close(clean=True)


async def test_many_runs_that_are_accepted_together_share_a_few_syncs(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    sync, sync_count = journal.log.sync, 0

    def counted_sync() -> object:
        nonlocal sync_count
        sync_count += 1
        return sync()

    journal.log.sync = counted_sync
    await asyncio.gather(*(journal.accept(entry(f"run-{n:04}")) for n in range(1_000)))
    await journal.close(clean=True)
    assert len((await open_and_close(tmp_path)).runs) == 1_000
    assert 0 < sync_count < 20


async def test_a_row_matches_its_facts_even_if_the_last_fact_could_not_be_written(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A"))
    run = begun("A")
    await write(journal, run, RequestStarted(1))
    await journal.update_history()
    await write(journal, run, Finished(1, 200, 0.5, msgspec.Raw(b"7")))
    put = journal.log.put

    def full(*_):
        raise JournalFull("no room")

    journal.log.put = full
    append_fact(journal, run, Settled(State.SUCCEEDED))
    while journal.blocked is None:
        await asyncio.sleep(0)
    await journal.update_history()
    journal.crash()
    journal.log.put = put
    assert check_journal(tmp_path / "up.journal").problems == []
    (listed,) = SqliteHistory(tmp_path).runs()
    assert listed.state is State.RUNNING


async def test_a_key_is_found_while_its_run_is_being_copied_to_the_history(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A", key="k"))
    projecting, resume = block_calls(journal.history, "begin")
    update = asyncio.ensure_future(journal.update_history())
    await asyncio.to_thread(projecting.wait)
    append_fact(journal, begun("A"), Settled(State.FAILED, "no"))
    await asyncio.sleep(0)
    prior_during = await journal.find("k", 1_000)
    assert (await journal.accept(entry("A", key="other"))).run_id == "A"
    resume.set()
    await update
    prior_after = await journal.accept(entry("B", key="k"))
    assert [(prior.run_id, prior.state) for prior in (prior_during, prior_after)] == [
        ("A", State.FAILED)
    ] * 2
    await journal.close(clean=True)


async def test_a_failed_lookup_does_not_roll_back_a_projection(tmp_path, connections):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A", key="k"))
    write_connection, read_connection, *_ = connections
    write_connection.execute("BEGIN IMMEDIATE")  # simulates the middle of a projection

    def fail(_):
        raise sqlite3.OperationalError("database is locked")

    read_connection.before_statement = fail
    with pytest.raises(JournalLocked):
        await journal.find("unknown", 1_000)
    assert write_connection.in_transaction
    write_connection.execute("ROLLBACK")
    del read_connection.before_statement
    await journal.close(clean=True)


async def test_a_projection_that_fails_in_the_middle_is_repeated_completely(
    tmp_path, monkeypatch, connections
):
    monkeypatch.setattr("fractal_rm.adapters.log.projector.RETRY_BLOCKED_S", 0)
    journal = sqlite_journal(tmp_path)
    await journal.open()
    for name in "AB":
        await journal.accept(entry(name, key=name))
    await write(journal, begun("A"), Settled(State.SUCCEEDED))
    failing_places, place = [0, 1, 2, 3, 4, 5], 0

    def fail(statement):
        """Fail at statement 1 of the first try, at statement 2 of the second try, etc."""
        nonlocal place
        if failing_places and not statement.startswith("ROLLBACK"):
            if place == failing_places[0]:
                failing_places.pop(0)
                place = 0
                raise sqlite3.OperationalError("database or disk is full")
            place += 1

    connections[0].before_statement = fail
    await journal.update_history()
    assert failing_places == []
    del connections[0].before_statement
    await write(journal, begun("B"), Settled(State.SUCCEEDED))
    await journal.close(clean=True)
    assert check_journal(tmp_path / "up.journal").problems == []
    assert [run.state for run in SqliteHistory(tmp_path).runs()] == [State.SUCCEEDED] * 2


async def test_the_history_can_be_updated_after_an_update_was_cancelled(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A"))
    update = asyncio.ensure_future(journal.update_history())
    await asyncio.sleep(0)
    update.cancel()
    await journal.update_history()
    await journal.close(clean=True)


async def test_closing_a_journal_during_a_projection_copies_the_rest_of_the_log(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A"))
    projecting, resume = block_calls(journal.history, "begin")
    first = asyncio.ensure_future(journal.update_history())
    await asyncio.to_thread(projecting.wait)
    await journal.accept(entry("B"))
    second = asyncio.ensure_future(journal.update_history())
    close_task = asyncio.ensure_future(journal.close(clean=True))
    await asyncio.sleep(0)
    resume.set()
    await asyncio.gather(first, second, close_task)
    with closing(sqlite3.connect(tmp_path / "up.journal")) as db:
        assert db.execute("SELECT count(*) FROM runs").fetchone() == (2,)
