"""Journals on a disk that is full or read-only."""

from __future__ import annotations

import asyncio
import subprocess
import threading

import msgspec
import pytest
from disk_journals import SmallDisk, open_and_close, sqlite_journal

from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.domain.facts import (
    Accepted,
    Finished,
    RequestStarted,
    Settled,
)
from fractal_rm.domain.flow import flow_version
from fractal_rm.domain.journal_errors import (
    JournalFull,
    JournalReadOnly,
)
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import (
    FLOW,
    append_fact,
    begun,
    entry,
    write,
)


async def test_a_journal_on_a_full_disk_refuses_runs_until_there_is_room(small_disk):
    journal = sqlite_journal(small_disk)
    await journal.open()
    filler = small_disk / "filler"
    await journal.accept(entry("first"))
    accepted = 0
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass
    with pytest.raises(JournalFull, match="disk"):
        while True:
            await journal.accept(entry(f"run-{accepted}"))
            accepted += 1
    durable = write(journal, begun("first"), Settled(State.SUCCEEDED))
    assert isinstance(journal.blocked, JournalFull)
    filler.unlink()
    await durable
    assert await journal.accept(entry("after")) is None
    await journal.close(clean=True)
    recovered = await open_and_close(small_disk)
    assert len(recovered.runs) == accepted + 1
    assert "first" not in [run.id for run in recovered.runs]


async def test_facts_that_waited_for_room_are_written_before_later_facts(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("run"))
    run = begun("run")
    SmallDisk.full = True
    result = msgspec.Raw(b'"%b"' % (b"y" * 200_000))
    durable = asyncio.ensure_future(write(journal, run, Finished(1, 200, 0.5, result)))
    while journal.blocked is None:
        await asyncio.sleep(0)
    append_fact(journal, run, RequestStarted(2))
    SmallDisk.full = False
    await durable
    await journal.close(clean=True)
    (recovered_run,) = (await open_and_close(tmp_path)).runs
    assert (recovered_run.progress.results, recovered_run.progress.in_doubt) == ({1: result}, {"2"})


async def test_a_disk_that_is_full_at_start_is_reported(small_disk):
    (small_disk / "filler").write_bytes(b"\0" * (1 << 20))
    with pytest.raises(JournalFull, match="make room"):
        await open_and_close(small_disk)


async def test_the_error_for_a_read_only_folder_says_what_to_do(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(JournalReadOnly, match="write permission"):
        await open_and_close(small_disk)


async def test_the_size_of_the_part_of_the_log_that_is_not_in_the_history_is_limited(
    tmp_path, other_connection
):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    other_connection.execute("BEGIN IMMEDIATE")
    payload = msgspec.Raw(b'"%b"' % (b"x" * 60_000))
    big = (Accepted(FLOW.id, flow_version(FLOW), payload, "mqtt"),)
    with pytest.raises(JournalFull, match="not in the history yet"):
        for n in range(100):
            await journal.accept(entry(f"run-{n:02}", facts=big))
    other_connection.execute("COMMIT")
    while journal.blocked is not None:
        await asyncio.sleep(0.01)
    assert await journal.accept(entry("later")) is None
    await journal.close(clean=True)
    run_ids = [run.id for run in (await open_and_close(tmp_path)).runs]
    assert run_ids == [f"run-{n:02}" for n in range(len(run_ids) - 1)] + ["later"]


async def test_a_folder_name_that_contains_full_or_locked_does_not_change_the_error(tmp_path):
    for name in ("fullstack", "unlocked"):
        (tmp_path / name / "up.lock").mkdir(parents=True)
        with pytest.raises(JournalReadOnly):
            await sqlite_journal(tmp_path / name).open()


async def test_runs_that_had_no_room_in_the_history_are_found_at_the_next_start(tmp_path):
    """Run A is accepted before the history is full. Run B is accepted while it is full."""
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A"))
    tried, begin, failures_left = threading.Event(), journal.history.begin, 2

    def begin_if_not_full(updates):
        nonlocal failures_left
        if failures_left:
            failures_left -= 1
            tried.set()
            raise JournalFull("no room")
        begin(updates)

    journal.history.begin = begin_if_not_full
    update = asyncio.ensure_future(journal.update_history())
    await asyncio.to_thread(tried.wait)
    await journal.accept(entry("B"))
    await write(journal, begun("A"), RequestStarted(1))
    await journal.close(clean=True)
    assert update.cancelled()
    assert failures_left == 0
    assert [run.id for run in (await open_and_close(tmp_path)).runs] == ["A", "B"]


async def test_while_the_disk_is_full_more_waiting_facts_do_not_cause_more_retries(
    tmp_path,
):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    names = [f"run-{n:02}" for n in range(50)]
    await asyncio.gather(*(journal.accept(entry(name)) for name in names))
    tries = []

    def full(*_):
        tries.append(1)
        raise JournalFull("no room")

    original_put, journal.log.put = journal.log.put, full
    waiting = [
        asyncio.ensure_future(write(journal, begun(name), RequestStarted(1))) for name in names
    ]
    while not tries:
        await asyncio.sleep(0)
    for _ in range(20):
        waiting.append(journal.wait_durable())
        await asyncio.sleep(0.01)
    assert len(tries) <= 4
    journal.log.put = original_put
    await asyncio.gather(*waiting)
    await journal.close(clean=True)


async def test_if_the_history_fills_the_disk_runs_are_refused_until_the_disk_is_larger(small_disk):
    journal = sqlite_journal(small_disk)
    await journal.open()
    payload = msgspec.Raw(b'"%b"' % (b"x" * 8_000))
    big = (Accepted(FLOW.id, flow_version(FLOW), payload, "mqtt"),)
    accepted = []
    with pytest.raises(JournalFull):
        while True:
            name = f"run-{len(accepted):03}"
            await journal.accept(entry(name, facts=big))
            accepted.append(name)
            await asyncio.wait([asyncio.ensure_future(journal.update_history())], timeout=0.01)
    assert isinstance(journal.blocked, JournalFull)
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    while journal.blocked is not None:
        await asyncio.sleep(0.01)
    assert await journal.accept(entry("after")) is None
    await journal.update_history()
    await journal.close(clean=True)
    assert [run.id for run in (await open_and_close(small_disk)).runs] == [*accepted, "after"]
    assert check_journal(small_disk / "up.journal").problems == []
