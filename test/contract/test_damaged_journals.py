"""Journals with damaged files are refused or reported, and so are files of other programs."""

from __future__ import annotations

import os
import sqlite3

import msgspec
import pytest
from disk_journals import open_and_close, write_open_runs

from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.adapters.sqlite.format.page_chain import chain_start, page_checksum
from fractal_rm.adapters.sqlite.format.schema import FORMAT
from fractal_rm.adapters.sqlite.read.snapshot import journals_in
from fractal_rm.domain.journal_errors import (
    JournalDamaged,
    JournalError,
    JournalTooNew,
    JournalTooOld,
    JournalUnreadable,
)


async def test_a_journal_with_a_flipped_byte_is_refused_or_has_all_runs_unchanged(tmp_path):
    await write_open_runs(tmp_path)
    path = tmp_path / "up.journal"
    valid_runs = msgspec.json.encode((await open_and_close(tmp_path)).runs)
    good = path.read_bytes()
    wrong_offsets = []
    for offset in range(0, len(good), 61):
        flipped = bytearray(good)
        flipped[offset] ^= 0x20
        path.write_bytes(flipped)
        for name in ("up.journal-wal", "up.journal-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        try:
            recovered = await open_and_close(tmp_path)
        except JournalError:
            continue
        if msgspec.json.encode(recovered.runs) != valid_runs:
            wrong_offsets.append(offset)
    assert wrong_offsets == []


async def test_a_truncated_journal_is_refused(tmp_path):
    await write_open_runs(tmp_path, runs=50)
    path = tmp_path / "up.journal"
    good = path.read_bytes()
    for length in range(100, len(good) - 1, 4_096):
        path.write_bytes(good[:length])
        with pytest.raises(JournalDamaged):
            await open_and_close(tmp_path)


async def test_an_error_names_the_run_of_a_missing_page(tmp_path):
    await write_open_runs(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("DELETE FROM pages WHERE run = 3")
    with pytest.raises(JournalDamaged, match="run run-2 has 0 of 1 pages"):
        await open_and_close(tmp_path)
    assert check_journal(tmp_path / "up.journal").problems == ["run run-2 has 0 of 1 pages"]


async def test_a_journal_with_a_missing_run_is_refused(tmp_path):
    await write_open_runs(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("DELETE FROM runs WHERE id = 'run-4'")
    with pytest.raises(JournalDamaged, match="should have 5 open runs, but has 4"):
        await open_and_close(tmp_path)


async def test_a_check_names_a_row_that_does_not_match_its_facts(tmp_path):
    await write_open_runs(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("UPDATE runs SET reason = 'another reason' WHERE id = 'run-4'")
    expected = ["the row of run run-4 does not match its facts",
                "the row of run run-4 (no. 5) does not match its checksum"]  # fmt: skip
    assert check_journal(tmp_path / "up.journal").problems == expected


async def test_a_newer_journal_is_refused_and_not_changed(tmp_path):
    await write_open_runs(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute(f"PRAGMA user_version = {FORMAT + 1}")
    with pytest.raises(JournalTooNew, match="newer release"):
        await open_and_close(tmp_path)
    with pytest.raises(JournalTooNew, match="newer release"):
        check_journal(tmp_path / "up.journal")


async def test_a_journal_from_before_the_first_release_is_refused_as_too_old(tmp_path):
    await write_open_runs(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("PRAGMA user_version = 1")
    with pytest.raises(JournalTooOld, match="finish its runs with the program that wrote it"):
        await open_and_close(tmp_path)
    with pytest.raises(JournalTooOld, match="before the first release"):
        check_journal(tmp_path / "up.journal")


async def test_a_database_of_another_program_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("CREATE TABLE t (a)")
    with pytest.raises(JournalDamaged, match="another program"):
        await open_and_close(tmp_path)


async def test_a_file_that_is_not_a_database_is_refused(tmp_path):
    (tmp_path / "up.journal").write_bytes(b"hello, world. " * 100)
    with pytest.raises(JournalDamaged, match="cannot be read"):
        await open_and_close(tmp_path)


async def test_an_empty_journal_with_runs_in_its_wal_is_refused(tmp_path):
    await write_open_runs(tmp_path)
    (tmp_path / "up.journal").write_bytes(b"")
    (tmp_path / "up.journal-wal").write_bytes(b"runs")
    with pytest.raises(JournalDamaged, match="while its -wal file has runs"):
        await open_and_close(tmp_path)
    assert (tmp_path / "up.journal-wal").read_bytes() == b"runs"


@pytest.mark.parametrize("change", ["accepted_ms = 'then'", "reason = x'ff'", "settled_ms = 1e999"])
async def test_a_row_with_a_value_of_a_wrong_type_is_reported(tmp_path, change):
    await write_open_runs(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute(f"UPDATE runs SET {change} WHERE id = 'run-4'")
    page = SqliteHistory(tmp_path).page()
    assert [run.id for run in page.runs] == ["run-3", "run-2", "run-1", "run-0"]
    assert page.unreadable == ["up: the row of run run-4 does not match its checksum"]
    problems = check_journal(tmp_path / "up.journal").problems
    assert "the row of run run-4 (no. 5) does not match its checksum" in problems


async def test_a_check_names_a_run_whose_facts_cannot_be_applied(tmp_path):
    await write_open_runs(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        (body,) = db.execute("SELECT body FROM pages WHERE run = 4 AND n = 1").fetchone()
        doubled_body = msgspec.json.encode(2 * msgspec.json.decode(body))
        last = page_checksum(chain_start("run-3"), 1, doubled_body)
        db.execute("DELETE FROM pages WHERE run = 4 AND n > 1")
        db.execute("UPDATE pages SET body = ?, sum = ? WHERE run = 4", (doubled_body, last))
        db.execute("UPDATE runs SET pages = 1, chain = ? WHERE no = 4", (last,))
    problems = check_journal(tmp_path / "up.journal").problems
    assert any(line.startswith("the facts of run run-3 are invalid: Accepted") for line in problems)


async def test_a_page_with_a_value_of_a_wrong_type_is_reported(tmp_path):
    await write_open_runs(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("UPDATE pages SET body = 5 WHERE run = 4")
    detail = SqliteHistory(tmp_path).run("run-3")
    assert detail.facts == []
    assert "page 1 of run run-3 cannot be read" in detail.unreadable


async def test_a_check_names_a_row_whose_flow_does_not_match_its_facts(tmp_path):
    await write_open_runs(tmp_path)
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("UPDATE runs SET flow = 'other' WHERE id = 'run-4'")
    problems = check_journal(tmp_path / "up.journal").problems
    assert problems == ["the row of run run-4 does not match its facts",
                        "the row of run run-4 (no. 5) does not match its checksum"]  # fmt: skip


async def test_the_counts_of_a_flow_leave_out_a_run_whose_page_is_not_json(tmp_path):
    await write_open_runs(tmp_path)
    (counts_before,) = SqliteHistory(tmp_path).flow_counts()
    with sqlite3.connect(tmp_path / "up.journal") as db:
        db.execute("UPDATE pages SET body = CAST('\"maybe_twice\":true' AS BLOB) WHERE run = 4")
    (counts_after,) = SqliteHistory(tmp_path).flow_counts()
    assert (counts_after.received, counts_after.states) == (
        counts_before.received - 1,
        counts_before.states,
    )


def test_an_unreadable_state_folder_is_an_error_and_a_missing_folder_has_no_runs(tmp_path):
    assert SqliteHistory(tmp_path / "not yet").runs() == []
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "unmounted").symlink_to("nowhere")
    for name in ("loop", "unmounted"):
        with pytest.raises(JournalUnreadable, match="cannot be read"):
            SqliteHistory(tmp_path / name).flow_counts()


async def test_an_unreadable_journal_does_not_prevent_the_check_of_other_journals(tmp_path):
    await write_open_runs(tmp_path)
    (tmp_path / "a.journal").mkdir()
    (tmp_path / "b.journal").symlink_to("b.journal")
    (tmp_path / "c.journal").symlink_to("disk that is not mounted")
    *bad, good = map(check_journal, journals_in(tmp_path))
    reasons = ("Is a directory", "symbolic links", "No such file")
    assert all(reason in each.problems[0] for each, reason in zip(bad, reasons, strict=True))
    assert good.problems == []


def test_a_fifo_in_place_of_a_journal_does_not_block_a_list(tmp_path):
    os.mkfifo(tmp_path / "other.journal")
    (unreadable,) = SqliteHistory(tmp_path).page().unreadable
    assert "this is a FIFO" in unreadable


@pytest.mark.parametrize(
    ("make", "kind"), [(os.mkfifo, "this is a FIFO"), (os.mkdir, "a directory")]
)
async def test_if_a_file_of_a_journal_is_not_a_regular_file_the_error_names_it(
    tmp_path, make, kind
):
    make(tmp_path / "up.journal-wal")
    with pytest.raises(JournalDamaged, match=f"up.journal-wal: .*{kind}"):
        await open_and_close(tmp_path)


async def test_lists_and_counts_report_damage_anywhere_in_a_journal(tmp_path):
    await write_open_runs(tmp_path, runs=50)
    path = tmp_path / "up.journal"
    good = path.read_bytes()
    history = SqliteHistory(tmp_path)
    refused = 0
    for at in range(0, len(good), 4_096):
        path.write_bytes(good[:at] + b"\xff" * 512 + good[at + 512 :])
        for query in (history.runs, history.flow_counts, lambda: history.run("run-7")):
            try:
                query()
            except JournalDamaged:
                refused += 1
        try:
            check_journal(path)
        except JournalDamaged:
            refused += 1
    assert refused > 3
