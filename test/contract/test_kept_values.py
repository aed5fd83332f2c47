"""KEEP and MASK: what the history keeps of the values of ended runs."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import msgspec
import pytest
from disk_journals import open_and_close, sqlite_journal

from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.domain.facts import Accepted, ElementFinished, Finished, Settled, StepPassed
from fractal_rm.domain.flow import Call, Flow, Keep, KeepSettings, Method
from fractal_rm.domain.journal_errors import JournalLocked
from fractal_rm.domain.masking.facts import HEAD_BYTES
from fractal_rm.domain.masking.omitted import Omission
from fractal_rm.domain.result import NULL
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import accepted, append_fact, entry

SECRET = "canary-7d1f"
PERSON = b'{"person": {"name": "%b"}, "line": 4}' % SECRET.encode()
NONE = KeepSettings(Keep.NONE)
HEAD = KeepSettings(Keep.HEAD)
MASK = KeepSettings(mask=("person.name", "image"))


def flow_with(keeping: KeepSettings) -> Flow:
    return Flow("7", "a flow", (Call(1, "c", "e", Method.GET),), keeping=keeping)


def as_text(value: bytes) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value.decode()))


def large(value: bytes) -> bytes:
    return b'{"padding": "%b", "value": %b}' % (b"x" * 100_000, value)


async def begin(journal, flow, payload=PERSON, run_id="A"):
    first = accepted(flow, payload)
    await journal.accept(entry(run_id, flow=flow, facts=(first,)))
    return fold(Run(run_id, flow, 1_000), [first])


def add_results(journal, run, value=PERSON):
    append_fact(journal, run, Finished(1, 200, 0.5, as_text(value)))
    append_fact(journal, run, ElementFinished(2, 1, 200, 0.5, NULL, value))
    append_fact(journal, run, StepPassed(3, as_text(value)))


async def end(journal, run):
    append_fact(journal, run, Settled(State.SUCCEEDED))
    await journal.durable


def stored(folder) -> bytes:
    """Everything that the history and the folder of blobs have."""
    with closing(sqlite3.connect(folder / "up.journal")) as db:
        bodies = [body for (body,) in db.execute("SELECT body FROM pages ORDER BY place")]
    return b"\n".join(bodies + [file.read_bytes() for file in folder.glob("up.blobs/*")])


def assert_nothing_is_left(folder):
    assert SECRET.encode() not in stored(folder)
    report = check_journal(folder / "up.journal")
    assert report.problems == []


def facts_of(folder, kind, run_id="A"):
    facts = [timed.fact for timed in SqliteHistory(folder).run(run_id).facts]
    return next(fact for fact in facts if isinstance(fact, kind))


@pytest.mark.parametrize("keeping", [NONE, MASK], ids=["KEEP none", "MASK"])
@pytest.mark.parametrize("value", [PERSON, large(PERSON)], ids=["small", "large"])
@pytest.mark.parametrize("copied_while_open", [False, True], ids=["at once", "in two parts"])
async def test_values_of_an_ended_run_are_not_in_the_history(
    tmp_path, keeping, value, copied_while_open
):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    run = await begin(journal, flow_with(keeping), value)
    add_results(journal, run, value)
    if copied_while_open:
        await journal.update_history()
        assert SECRET.encode() in stored(tmp_path)
    await end(journal, run)
    await journal.update_history()
    assert_nothing_is_left(tmp_path)
    await journal.close(clean=True)
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("copied_while_open", [False, True], ids=["at once", "in two parts"])
async def test_values_are_dropped_when_the_next_start_copies_the_log(tmp_path, copied_while_open):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    run = await begin(journal, flow_with(NONE), large(PERSON))
    if copied_while_open:
        await journal.update_history()
    add_results(journal, run, large(PERSON))
    await end(journal, run)
    journal.crash()
    await open_and_close(tmp_path)
    assert_nothing_is_left(tmp_path)


async def test_an_open_run_continues_with_its_complete_values_after_a_crash(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    run = await begin(journal, flow_with(NONE), large(PERSON))
    add_results(journal, run, large(PERSON))
    await journal.durable
    for _ in range(2):  # the first start reads the log, the second start reads the history
        journal.crash()
        journal = sqlite_journal(tmp_path)
        assert (await journal.open()).runs == [run]
        await asyncio.sleep(0)  # let the tasks of the journal start
    await journal.close(clean=True)


async def test_readers_never_see_more_than_the_history_will_keep(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    run = await begin(journal, flow_with(NONE))
    add_results(journal, run)
    await journal.durable
    assert bytes(facts_of(tmp_path, Accepted).payload) == b'"(not kept)"'
    await journal.update_history()
    assert bytes(facts_of(tmp_path, Finished).result) == b'"(not kept)"'
    await journal.close(clean=True)


async def test_the_history_says_what_is_missing(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    for keeping, run_id in ((NONE, "A"), (HEAD, "B"), (MASK, "C")):
        run = await begin(journal, flow_with(keeping), large(PERSON), run_id)
        add_results(journal, run, large(PERSON))
        await end(journal, run)
    await journal.close(clean=True)
    size = len(large(PERSON))
    missing = [facts_of(tmp_path, Accepted, each).omitted for each in "ABC"]
    assert [(each.what, each.size) for each in missing] == [
        (Omission.ALL, size),
        (Omission.REST, size),
        (Omission.FIELDS, size),
    ]
    head = msgspec.json.decode(facts_of(tmp_path, Finished, "B").result)
    assert head == large(PERSON)[:HEAD_BYTES].decode()
    assert facts_of(tmp_path, ElementFinished, "B").data == large(PERSON)[:HEAD_BYTES]
    masked = msgspec.json.decode(facts_of(tmp_path, Accepted, "C").payload)
    assert masked["value"] == {"person": {"name": "*****"}, "line": 4}
    assert check_journal(tmp_path / "up.journal").problems == []


async def test_values_without_masked_fields_keep_their_files(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    run = await begin(journal, flow_with(MASK), large(b'{"line": 4}'))
    await journal.update_history()
    append_fact(journal, run, Finished(1, 200, 0.5, as_text(large(PERSON))))
    await end(journal, run)
    await journal.close(clean=True)
    assert len(list(tmp_path.glob("up.blobs/*"))) == 1
    assert bytes(facts_of(tmp_path, Accepted).payload) == large(b'{"line": 4}')
    assert_nothing_is_left(tmp_path)


async def test_values_are_dropped_when_a_failed_copy_is_repeated(tmp_path, monkeypatch):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    run = await begin(journal, flow_with(NONE), large(PERSON))
    await journal.update_history()
    add_results(journal, run, large(PERSON))
    await end(journal, run)
    commit, calls = journal.history.commit, []

    def commit_at_the_second_call(*args):
        calls.append(args)
        if len(calls) == 1:
            journal.history.file.db.execute("ROLLBACK")
            raise JournalLocked("locked")
        commit(*args)

    monkeypatch.setattr(journal.history, "commit", commit_at_the_second_call)
    await journal.update_history()
    assert len(calls) == 2
    assert_nothing_is_left(tmp_path)
    await journal.close(clean=True)
