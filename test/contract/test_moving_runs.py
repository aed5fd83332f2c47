"""Open runs are moved between journals. At any time, each run is in exactly one journal."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from fractal_rm.adapters import other_journals
from fractal_rm.adapters.journal_files import open_journal
from fractal_rm.adapters.log.adoption import RUNS_PER_MOVE, families
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.adapters.sqlite.read import other_histories as lookup
from fractal_rm.adapters.sqlite.read.snapshot import journals_in
from fractal_rm.adapters.sqlite.write.limits import HistoryLimits
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import (
    Accepted,
    Finished,
    Offered,
    Placed,
    RequestStarted,
    Settled,
    StepFailed,
)
from fractal_rm.domain.flow import flow_version
from fractal_rm.domain.journal_errors import JournalError, JournalLocked
from fractal_rm.domain.moment import Moment
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import FLOW, accepted, begun, entry, write

RETRY_AT = Moment("boot", 5_000, 1_700_000_000_000)
KEEP = HistoryLimits(7 * 86_400, 1 << 30, 7 * 86_400, 1 << 30)
LARGE = msgspec.Raw(b'"%b"' % (b"r" * 100_000))
FORMAT_4 = Path(__file__).with_name("journal_of_format_4.sql").read_text()


def raise_error(error: JournalError) -> None:
    raise AssertionError(error)


def journal_in(folder: Path, name: str, can_execute=lambda _: True):
    return open_journal(
        folder / f"{name}.journal", limits=lambda: KEEP, retention_ms=lambda: 1_000,
        on_lost=raise_error, segment_bytes=64 * 1024, max_bytes=4 << 20, can_execute=can_execute,
    )  # fmt: skip


async def leave_open_runs(folder: Path, name: str, *run_ids: str, clean: bool = True) -> None:
    """Write a journal with an ended run and the open runs ``run_ids``. Run A has a large result."""
    journal = journal_in(folder, name)
    await journal.open()
    await journal.accept(entry(f"ended in {name}", key=f"ended in {name}"))
    await write(journal, begun(f"ended in {name}"), Settled(State.SUCCEEDED))
    for run_id in run_ids:
        await journal.accept(entry(run_id, key=run_id))
        result = LARGE if run_id == "A" else msgspec.Raw(b'"r"')
        await write(journal, begun(run_id), Finished(1, 200, 0.5, result))
    if clean:
        await journal.close(clean=True)
    else:
        journal.crash()


async def open_and_adopt(folder: Path, name: str = "up", **options):
    """Open a journal, adopt the runs of other journals, and close it.

    Returns the result of `adopt`.
    """
    journal = journal_in(folder, name, **options)
    await journal.open()
    try:
        return await journal.adopt()
    finally:
        await journal.close(clean=True)


def open_runs_by_journal(folder: Path) -> list[tuple[str, str]]:
    """The id of each open run, with the name of its journal."""
    runs = SqliteHistory(folder).runs(limit=1_000_000)
    return sorted((run.id, run.journal) for run in runs if run.settled_ms is None)


def problems(folder: Path) -> list[str]:
    """The damage that `check_journal` finds in the journals of a folder."""
    return [line for path in journals_in(folder) for line in check_journal(path).problems]


class ProcessEnded(Exception):
    """Raised where the process would end."""


STEPS = ("open", "begin_move", "body_of", "delete_moved", "end_move", "close")


@pytest.mark.parametrize("next_journal", ["up", "mqtt", "api"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
async def test_a_process_that_ends_during_a_move_leaves_each_run_in_one_journal(
    tmp_path, monkeypatch, step, when, next_journal
):
    await leave_open_runs(tmp_path, "mqtt", "A", "B", clean=False)
    journal = journal_in(tmp_path, "up")
    await journal.open()
    original = getattr(other_journals.FreeJournal, step)

    def end_process(self, *args, **options):
        if when == "after":
            original(self, *args, **options)
        raise ProcessEnded

    with monkeypatch.context() as patched:
        patched.setattr(other_journals.FreeJournal, step, end_process)
        patched.setattr(other_journals.FreeJournal, "close", _abandon_and_end)
        with pytest.raises(ProcessEnded):
            await journal.adopt()
    journal.crash()
    journal = journal_in(tmp_path, next_journal)
    resumed = (await journal.open()).runs
    for each in await journal.adopt():
        resumed += each.moved.runs
    assert sorted(run.id for run in resumed) == ["A", "B"]
    assert next(run for run in resumed if run.id == "A").progress.results == {1: LARGE}
    await journal.close(clean=True)
    assert open_runs_by_journal(tmp_path) == [("A", next_journal), ("B", next_journal)]
    assert problems(tmp_path) == []
    (counts,) = SqliteHistory(tmp_path).flow_counts()
    assert (counts.received, sum(counts.states.values())) == (3, 3)
    assert SqliteHistory(tmp_path).run("A").facts[1].fact.result == LARGE
    # When the other processes start, they delete all blobs of their journals without a reference.
    for name in {"up", "mqtt", "api"} - {next_journal}:
        await start_once(tmp_path, name)
    assert [file.parent.name for file in tmp_path.glob("*.blobs/*")] == [f"{next_journal}.blobs"]


async def start_once(folder: Path, name: str) -> None:
    journal = journal_in(folder, name)
    await journal.open()
    await journal.close(clean=True)


def _abandon_and_end(self, **_):
    """Release the locks of a journal without writing anything. Then raise ProcessEnded."""
    self.abandon()
    raise ProcessEnded


async def test_the_copy_of_a_run_is_not_resumed_while_the_run_is_still_in_the_other_journal(
    tmp_path, monkeypatch
):
    """The process up copies run A from the journal mqtt. It is killed before it deletes A there.

    Then the processes mqtt and up are started.
    """
    await leave_open_runs(tmp_path, "mqtt", "A")
    journal = journal_in(tmp_path, "up")
    await journal.open()

    def killed(*_):
        raise ProcessEnded

    with monkeypatch.context() as patched:
        patched.setattr(other_journals.FreeJournal, "delete_moved", killed)
        with pytest.raises(ProcessEnded):
            await journal.adopt()
    journal.crash()
    mqtt, up = journal_in(tmp_path, "mqtt"), journal_in(tmp_path, "up")
    assert [run.id for run in (await mqtt.open()).runs] == ["A"]
    assert (await up.open()).runs == []
    assert await up.adopt() == await mqtt.adopt() == []
    await mqtt.close(clean=True)
    await up.close(clean=True)
    assert open_runs_by_journal(tmp_path) == [("A", "mqtt")]


async def test_a_run_that_could_not_be_deleted_from_the_other_journal_is_not_resumed(
    tmp_path, monkeypatch
):
    await leave_open_runs(tmp_path, "mqtt", "A")
    journal = journal_in(tmp_path, "up")
    await journal.open()

    def locked(*_):
        raise JournalLocked("another program has locked it")

    with monkeypatch.context() as patched:
        patched.setattr(other_journals.FreeJournal, "delete_moved", locked)
        for _ in range(2):
            (adopted,) = await journal.adopt()
            assert (adopted.moved.runs, adopted.remaining) == ([], ["A"])
            assert adopted.why == "another program has locked it"
    (adopted,) = await journal.adopt()
    assert [run.id for run in adopted.moved.runs] == ["A"]
    await journal.close(clean=True)
    assert open_runs_by_journal(tmp_path) == [("A", "up")]
    assert problems(tmp_path) == []


async def test_if_two_processes_start_together_each_run_is_adopted_once(tmp_path):
    for name in ("a", "b", "c"):
        await leave_open_runs(tmp_path, name, *(f"{name}{n}" for n in range(50)))
    one, two = journal_in(tmp_path, "one"), journal_in(tmp_path, "two")
    await asyncio.gather(one.open(), two.open())
    resumed = [
        run.id
        for each in await asyncio.gather(one.adopt(), two.adopt())
        for adopted in each
        for run in adopted.moved.runs
    ]
    assert sorted(resumed) == sorted(f"{name}{n}" for name in "abc" for n in range(50))
    await asyncio.gather(one.close(clean=True), two.close(clean=True))
    assert problems(tmp_path) == []


async def test_thousands_of_runs_are_moved_and_a_child_is_in_the_batch_of_its_parent(tmp_path):
    count = 3 * RUNS_PER_MOVE
    journal = journal_in(tmp_path, "mqtt")
    await journal.open()
    names = [f"{n:05}" for n in range(count)]
    await asyncio.gather(*(journal.accept(entry(name, key=name)) for name in names))
    child = Accepted(FLOW.id, flow_version(FLOW), msgspec.Raw(b"1"), "flow", origin="00000:1")
    await journal.accept(entry("child", facts=(child,)))
    await journal.close(clean=True)
    (adopted,) = await open_and_adopt(tmp_path)
    assert sorted(run.id for run in adopted.moved.runs) == [*names, "child"]
    moved = [run.id for run in adopted.moved.runs]
    assert moved.index("child") < RUNS_PER_MOVE
    assert {journal for _, journal in open_runs_by_journal(tmp_path)} == {"up"}
    assert problems(tmp_path) == []


async def test_all_data_of_a_run_is_moved(tmp_path):
    await leave_open_runs(tmp_path, "mqtt", "A")
    journal = journal_in(tmp_path, "mqtt")
    await journal.open()
    for _ in range(3):
        await journal.accept(entry("again", key="A"))
    await journal.close(clean=True)
    run_before = SqliteHistory(tmp_path).run("A")
    (counts,) = SqliteHistory(tmp_path).flow_counts()
    await open_and_adopt(tmp_path)
    run_after = SqliteHistory(tmp_path).run("A")
    assert msgspec.json.encode(run_after.facts) == msgspec.json.encode(run_before.facts)
    assert run_after.summary == msgspec.structs.replace(run_before.summary, journal="up")
    assert SqliteHistory(tmp_path).flow_counts() == [counts]
    assert counts.duplicates == 3


async def test_after_moves_of_runs_with_failures_parents_and_keys_both_journals_are_valid(tmp_path):
    journal = journal_in(tmp_path, "mqtt")
    await journal.open()
    runs = {}
    for name, facts in FACTS.items():
        runs[name] = fold(Run(name, FLOW, 1_000), list(facts))
        await journal.accept(entry(name, key=f"key of {name}", facts=facts[:1]))
        for fact in facts[1:]:
            journal.append(runs[name], fact, 1_001)
            await journal.durable
        await journal.accept(entry("again", key=f"key of {name}"))
    await fail(journal, runs.pop("failed child"))
    await journal.close(clean=True)
    runs_before = {name: SqliteHistory(tmp_path).run(name) for name in runs}
    counts = SqliteHistory(tmp_path).flow_counts()
    for n, new_journal in enumerate(
        ("up", "api", "mqtt", "up")
    ):  # the process mqtt has written the runs
        journal = journal_in(tmp_path, new_journal)
        await journal.open()
        (adopted,) = await journal.adopt()
        assert adopted.moved.runs == list(runs.values())
        assert problems(tmp_path) == []  # while the runs are in the log
        await journal.update_history()
        assert problems(tmp_path) == []  # while the runs are in the history
        assert SqliteHistory(tmp_path).flow_counts() == counts
        await journal.accept(entry(f"ended there {n}"))
        await fail(journal, begun(f"ended there {n}"))
        counts = SqliteHistory(tmp_path).flow_counts()
        await journal.close(clean=True)
        for name, old in runs_before.items():
            new = SqliteHistory(tmp_path).run(name)
            assert new.summary == msgspec.structs.replace(old.summary, journal=new_journal)
            assert msgspec.json.encode(new.facts) == msgspec.json.encode(old.facts)
    await end_all_runs(tmp_path, "up", runs)
    assert problems(tmp_path) == []
    assert parents(tmp_path / "up.journal") == {"child": "parent"}
    assert parents(tmp_path / "mqtt.journal") == {"failed child": "parent"}
    failed = SqliteHistory(tmp_path).runs(state=State.FAILED)
    assert {run.id for run in failed} >= {*runs, "failed child"}


def accepted_with(**fields):
    return Accepted(FLOW.id, flow_version(FLOW), msgspec.Raw(b"1"), "mqtt", **fields)


FACTS = {
    "parent": (accepted_with(key="key of parent"), Placed(None, "here"), RequestStarted(1)),
    "failed child": (accepted_with(origin="parent:1"), RequestStarted(1)),
    "child": (
        accepted_with(origin="parent:2"),
        RequestStarted(1),
        StepFailed(1, 1, "no 17", retry_at=RETRY_AT),
    ),
    "elsewhere": (accepted_with(), Placed("3", "there"), Offered("3", 1)),
    "accepted": (accepted_with(),),
}


async def fail(journal, run: Run) -> None:
    await write(journal, run, StepFailed(1, 2, "status 500", final=True, cause=Cause.STATUS))
    await write(journal, run, Settled(State.FAILED, "status 500"))


async def end_all_runs(folder: Path, name: str, runs: dict[str, Run]) -> None:
    journal = journal_in(folder, name)
    assert (await journal.open()).runs == list(runs.values())
    for run in runs.values():
        if run.state is State.OFFERED:
            await write(journal, run, Placed(None, "no answer"))
        await fail(journal, run)
    await journal.close(clean=True)


def parents(path: Path) -> dict[str, str]:
    with closing(sqlite3.connect(path)) as db:
        return dict(db.execute("SELECT id, parent FROM runs WHERE parent IS NOT NULL"))


async def test_a_damaged_row_is_not_moved(tmp_path):
    await leave_open_runs(tmp_path, "mqtt", "A", "B")
    change_row(tmp_path / "mqtt.journal", "UPDATE runs SET duplicates = 9 WHERE id = 'A'")
    (adopted,) = await open_and_adopt(tmp_path)
    assert (adopted.moved.runs, adopted.remaining) == ([], ["A", "B"])
    assert "does not match its checksum" in adopted.why
    assert "fractal-rm journal repair" in adopted.why
    change_row(tmp_path / "mqtt.journal", "UPDATE runs SET duplicates = 0 WHERE id = 'A'")
    change_row(tmp_path / "mqtt.journal", "UPDATE keys SET digest = 'e' WHERE key = 'B'")
    (adopted,) = await open_and_adopt(tmp_path)
    assert adopted.remaining == ["A", "B"]
    change_row(tmp_path / "mqtt.journal", "UPDATE keys SET digest = 'd' WHERE key = 'B'")
    (adopted,) = await open_and_adopt(tmp_path)
    assert [run.id for run in adopted.moved.runs] == ["A", "B"]
    assert problems(tmp_path) == []


def change_row(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        assert db.execute(statement).rowcount == 1


async def test_runs_that_this_process_cannot_execute_are_not_moved(tmp_path):
    await leave_open_runs(tmp_path, "mqtt", "A", "B")
    (adopted,) = await open_and_adopt(tmp_path, can_execute=lambda run: run.id != "A")
    assert ([run.id for run in adopted.moved.runs], adopted.remaining) == (["B"], ["A"])
    assert open_runs_by_journal(tmp_path) == [("A", "mqtt"), ("B", "up")]


async def test_a_run_that_is_in_both_journals_is_resumed_once(tmp_path):
    """A peer has offered the run to both processes at the same time, and both have accepted it."""
    await leave_open_runs(tmp_path, "mqtt", "A")
    (tmp_path / "mqtt.journal").rename(tmp_path / "aside")
    await leave_open_runs(tmp_path, "up", "A")
    (tmp_path / "aside").rename(tmp_path / "mqtt.journal")
    assert await open_and_adopt(tmp_path) == []
    assert open_runs_by_journal(tmp_path) == [("A", "up")]


async def test_ten_old_journals_are_adopted_and_keep_their_ended_runs(tmp_path):
    names = [f"old-{n}" for n in range(10)]
    for name in names:
        await leave_open_runs(tmp_path, name, f"open in {name}")
    adopted = await open_and_adopt(tmp_path)
    assert [(each.journal, each.moved.runs[0].id) for each in adopted] == [
        (name, f"open in {name}") for name in names
    ]
    journal = journal_in(tmp_path, "up")
    await journal.open()
    assert await journal.adopt() == []
    for name in names:
        assert (await journal.find(f"ended in {name}", 1_000)).run_id == f"ended in {name}"
        assert SqliteHistory(tmp_path).run(f"ended in {name}").summary.journal == name
    assert await journal.find("another", 1_000) is None
    await journal.close(clean=True)


async def test_a_journal_of_format_4_is_adopted_if_it_has_open_runs(tmp_path):
    remove_open_runs = (
        "DELETE FROM pages WHERE run IN (SELECT no FROM runs WHERE settled_ms IS NULL);"
        "DELETE FROM keys; DELETE FROM runs WHERE settled_ms IS NULL;"
        "UPDATE meta SET value = 3 WHERE name = 'accepted'; PRAGMA wal_checkpoint(TRUNCATE);"
    )
    for name, change in (("api", remove_open_runs), ("mqtt", "")):
        with closing(sqlite3.connect(tmp_path / f"{name}.journal")) as db:
            db.executescript(FORMAT_4 + change)
    content_before = (tmp_path / "api.journal").read_bytes()
    journal = journal_in(tmp_path, "up")
    await journal.open()
    still_open = {
        run_id for run_id, journal_name in open_runs_by_journal(tmp_path) if journal_name == "mqtt"
    }
    (adopted,) = await journal.adopt()
    assert {run.id for run in adopted.moved.runs} == still_open
    assert len(still_open) == 4
    assert (await journal.find("a trigger", 1_000)).run_id in still_open
    await journal.close(clean=True)
    assert (tmp_path / "api.journal").read_bytes() == content_before
    assert not (tmp_path / "mqtt.log").exists()
    assert problems(tmp_path) == []


async def test_a_key_is_found_in_a_log_that_another_process_has_just_written(tmp_path):
    """The other process begins new segments of its log, and reuses old segments."""
    other, journal = journal_in(tmp_path, "mqtt"), journal_in(tmp_path, "up")
    await other.open()
    await journal.open()
    payload = b'"' + b"x" * 9_000 + b'"'
    for n in range(60):
        await other.accept(entry(f"run {n}", key=f"{n}", facts=(accepted(payload=payload),)))
        if n % 7 == 0:
            await other.update_history()
        if n % 3 == 0:
            for number in range(max(0, n - 20), n + 1):
                prior = await journal.find(f"{number}", 1_000)
                assert prior is not None, (n, number)
                assert prior.run_id == f"run {number}"
    assert await journal.find("60", 1_000) is None
    await other.accept(
        entry("huge", key="huge", facts=(accepted(payload=b'"' + b"x" * 300_000 + b'"'),))
    )
    assert (await journal.find("huge", 1_000)).run_id == "huge"
    await other.close(clean=True)
    await journal.close(clean=True)


async def test_a_key_is_found_in_a_log_whose_segments_are_reused_during_the_search(
    tmp_path, monkeypatch
):
    other, journal = journal_in(tmp_path, "mqtt"), journal_in(tmp_path, "up")
    await other.open()
    await journal.open()
    payload = b'"' + b"x" * 9_000 + b'"'

    async def write_and_reuse():
        for n in range(30):
            await other.accept(entry(f"run {n}", key=f"{n}", facts=(accepted(payload=payload),)))
        await other.update_history()
        await other.accept(entry("last", key="last"))

    loop, read_new, pending = asyncio.get_running_loop(), lookup.Tail.read_new, [write_and_reuse]

    def read_after_writes(self, history_state):
        if pending and self.folder.name == "mqtt.log":
            write_once = pending.pop()
            asyncio.run_coroutine_threadsafe(write_once(), loop).result()
        read_new(self, history_state)

    monkeypatch.setattr(lookup.Tail, "read_new", read_after_writes)
    assert (await journal.find("last", 1_000)).run_id == "last"
    await other.close(clean=True)
    await journal.close(clean=True)


async def test_a_key_is_found_in_the_log_of_a_process_that_was_killed_and_started_again(tmp_path):
    other, journal = journal_in(tmp_path, "mqtt"), journal_in(tmp_path, "up")
    await other.open()
    await journal.open()
    assert await journal.find("k", 1_000) is None
    other.crash()
    other = journal_in(tmp_path, "mqtt")
    await other.open()
    await other.accept(entry("A", key="k"))
    assert (await journal.find("k", 1_000)).run_id == "A"
    await other.close(clean=True)
    await journal.close(clean=True)


async def test_an_unreadable_other_journal_does_not_prevent_new_runs(tmp_path):
    (tmp_path / "a.journal").mkdir()
    (tmp_path / "b.journal").write_bytes(b"no database" * 1_000)
    await leave_open_runs(tmp_path, "z")
    journal = journal_in(tmp_path, "up")
    await journal.open()
    assert await journal.accept(entry("A", key="A")) is None
    assert (await journal.find("ended in z", 1_000)).run_id == "ended in z"
    await journal.close(clean=True)


async def test_for_a_trigger_without_a_key_no_other_journal_is_searched(tmp_path, monkeypatch):
    await leave_open_runs(tmp_path, "mqtt", "A")
    journal = journal_in(tmp_path, "up")
    await journal.open()
    queries = []

    def find_nothing(_, keys):
        queries.extend(keys)
        return [None] * len(keys)

    monkeypatch.setattr(lookup.OtherHistories, "find", find_nothing)
    await journal.accept(entry("B"))
    assert queries == []
    await journal.accept(entry("C", key="c"))
    assert [key for key, *_ in queries] == ["c"]
    await journal.accept(entry("D", key="c"))
    assert len(queries) == 1
    await journal.close(clean=True)


def test_a_family_is_a_run_with_all_its_descendants():
    def run(run_id, origin=msgspec.UNSET):
        first = Accepted(FLOW.id, flow_version(FLOW), msgspec.Raw(b"1"), "flow", origin=origin)
        return fold(Run(run_id, FLOW, 0), [first])

    runs = [run("a"), run("b"), run("c", "a:1"), run("d", "c:2"), run("e", "unknown:1")]
    assert [[each.id for each in family] for family in families(runs)] == [
        ["a", "c", "d"], ["b"], ["e"],
    ]  # fmt: skip
