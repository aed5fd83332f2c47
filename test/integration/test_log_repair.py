"""Repairs of a damaged log: readable data is kept, and lost data is reported."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sqlite3
from contextlib import closing
from errno import EIO
from pathlib import Path

import msgspec
import pytest
from test_damaged_log import (
    BEGIN,
    cut,
    end_of,
    flip_bit,
    journal_in,
    segments_of,
    zero_a_page,
    zero_a_sector,
)

from fractal_rm.adapters.log import projector
from fractal_rm.adapters.log.segments import HEADER_PLACES
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.adapters.sqlite.repair import repair
from fractal_rm.domain.facts import Finished, Settled
from fractal_rm.domain.journal_errors import JournalDamaged
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import append_fact, begun, entry

RUNS = 60
OPEN = State.ACCEPTED, State.RUNNING


def finish_step(journal, name: str) -> None:
    """Record the end of a step. Run 25 has a large result, which is stored in a blob."""
    answer = b'"%b"' % (b"r" * (70_000 if name.endswith("25") else 1))
    append_fact(journal, begun(name), Finished(1, 200, 0.1, msgspec.Raw(answer)))


def end_run(journal, name: str) -> None:
    append_fact(journal, begun(name), Settled(State.SUCCEEDED))


async def write_and_kill(folder: Path, prefix: str) -> None:
    """Write a journal, and leave it as a killed process does.

    The runs ``old`` are in the history, and have more facts in the log. Of the other runs, the
    history has those that ended before it was updated, and the log has the rest.
    """
    journal = journal_in(folder)
    await journal.open()
    for n in range(4):
        await journal.accept(entry(f"{prefix}-old-{n}", key=f"{prefix}-old-{n}"))
    await journal.close(clean=True)
    journal = journal_in(folder)
    await journal.open()
    for n in range(RUNS):
        name = f"{prefix}-{n:03}"
        await journal.accept(entry(name, key=name))
        if n >= 8:
            finish_step(journal, f"{prefix}-{n - 8:03}")
            end_run(journal, f"{prefix}-{n - 8:03}")
        if n == RUNS // 2:
            await journal.update_history(open_runs=False)
        if n % 15 == 7:
            finish_step(journal, f"{prefix}-old-{n // 15}")
    end_run(journal, f"{prefix}-old-3")
    await journal.wait_durable()
    journal.crash()


def make_journals(folder: Path) -> Path:
    """Write two journals in ``folder``, with most runs only in the log. Returns ``folder``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projector, "PROJECT_EVERY_S", 600)
        patch.setattr(projector, "PROJECT_BYTES", 1 << 60)
        asyncio.run(write_and_kill(folder / "state", "run"))
        asyncio.run(write_and_kill(folder / "other", "other"))
    return folder


@pytest.fixture(scope="module")
def journals(tmp_path_factory):
    return make_journals(tmp_path_factory.mktemp("made"))


@pytest.fixture
def state(tmp_path, journals):
    return shutil.copytree(journals, tmp_path / "copy") / "state"


def damage_state(state: Path) -> tuple[Path, bytes]:
    """Damage the third segment. Returns the file of the segment, and the damaged content."""
    file = segments_of(state)[2]
    content = bytearray(file.read_bytes())
    zero_a_sector(content, BEGIN + 1_500)
    file.write_bytes(content)
    return file, bytes(content)


def journal_of(folder: Path) -> Path:
    return folder / "up.journal"


def runs_in(folder: Path) -> dict[str, tuple[State, list]]:
    """The state and the facts of each run in a history, by run id."""
    runs: dict[str, tuple[State, list]] = {}
    with closing(sqlite3.connect(journal_of(folder))) as db:
        for run_id, state, body in db.execute(
            "SELECT id, state, body FROM runs LEFT JOIN pages ON pages.run = runs.no ORDER BY place"
        ):
            _, facts = runs.setdefault(run_id, (State(state), []))
            facts.extend(json.loads(body or "[]"))
    return runs


async def start_and_read(folder: Path) -> dict[str, tuple[State, list]]:
    """Open and close a journal. Returns its runs as `runs_in` does."""
    journal = journal_in(folder)
    recovered = await journal.open()
    assert recovered.broken == []
    await journal.close(clean=True)
    assert check_journal(journal_of(folder)).problems == []
    return runs_in(folder)


def assert_unchanged_or_reported(runs_before: dict, runs_after: dict, losses: list[str]) -> None:
    """Assert that each run is unchanged or reported, and that no incomplete run is resumed."""
    for run_id, (state, facts) in runs_after.items():
        if state in (State.UNKNOWN, State.DEAD):
            assert any(run_id in each for each in losses)
        elif state in OPEN:
            assert (state, facts) == runs_before[run_id]  # the run is resumed with all its facts
        else:
            state_before, _ = runs_before[run_id]
            assert state is state_before
    assert losses or runs_before == runs_after


def zero_both_headers(data: bytearray, at: int) -> int:
    data[:BEGIN] = bytes(BEGIN)
    return BEGIN


def flip_both_headers(data: bytearray, at: int) -> int:
    for place in HEADER_PLACES:
        data[place + len(b"FRMlog") + 3] ^= 1  # in the number of the segment
    return BEGIN


DAMAGES = [flip_bit, zero_a_sector, zero_a_page, cut, zero_both_headers, flip_both_headers]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_check_names_damage_and_a_repair_keeps_the_damaged_files(tmp_path, state, damage):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    runs_before = await start_and_read(shutil.copytree(state, tmp_path / "undamaged"))
    repaired = 0
    for number in range(5):
        copy = shutil.copytree(state, tmp_path / f"{number}")
        segments = segments_of(copy)
        file = rng.choice(segments[:-1])
        content = bytearray(file.read_bytes())
        damage(content, rng.randrange(BEGIN, end_of(file)))
        file.write_bytes(content)
        try:
            runs_after = await start_and_read(shutil.copytree(copy, tmp_path / f"{number}-started"))
        except JournalDamaged:
            pass
        else:
            assert runs_after == runs_before  # the damage is in a part that is no longer read
            continue
        repaired += 1
        problems = check_journal(journal_of(copy)).problems
        assert any(f"(file {file.name})" in each or "is missing" in each for each in problems)
        report = repair(journal_of(copy))
        assert check_journal(journal_of(copy)).problems == []
        assert report.log_kept_as is not None
        assert (Path(report.log_kept_as) / file.name).read_bytes() == content
        runs_after = await start_and_read(copy)
        assert_unchanged_or_reported(runs_before, runs_after, report.lost)
    assert repaired > 2


async def test_an_undamaged_log_has_no_problems(state):
    assert check_journal(journal_of(state)).problems == []


def delete(segments: list[Path]) -> None:
    segments[len(segments) // 2].unlink()


def delete_the_last(segments: list[Path]) -> None:
    segments[-1].unlink()


def delete_the_last_two(segments: list[Path]) -> None:
    for file in segments[-2:]:
        file.unlink()


def delete_all(segments: list[Path]) -> None:
    shutil.rmtree(segments[0].parent)


def replace_by_fifo(segments: list[Path]) -> None:
    segments[2].unlink()
    os.mkfifo(segments[2])


def replace_by_folder(segments: list[Path]) -> None:
    segments[2].unlink()
    (segments[2] / "of a user").mkdir(parents=True)


def replace_by_segment_of_another_log(segments: list[Path]) -> None:
    shutil.copy(segments[2].parents[2] / "other" / "up.log" / segments[2].name, segments[2])


PROBLEM_BY_DAMAGE = {
    delete: "segment 5 of the log is missing",
    delete_the_last: "segment 7 of the log is missing",
    delete_the_last_two: "segment 6 of the log is missing",
    delete_all: "segment 2 of the log is missing",
    replace_by_fifo: "cannot be read",
    replace_by_folder: "cannot be read",
    replace_by_segment_of_another_log: "belongs to another log",
}


@pytest.mark.parametrize("damage", PROBLEM_BY_DAMAGE)
async def test_a_missing_segment_is_reported_and_runs_of_other_segments_are_kept(
    tmp_path, state, damage
):
    runs_before = await start_and_read(shutil.copytree(state, tmp_path / "undamaged"))
    damage(segments_of(state))
    with pytest.raises(JournalDamaged):
        await journal_in(state).open()
    problems = check_journal(journal_of(state)).problems
    assert any(PROBLEM_BY_DAMAGE[damage] in each for each in problems)
    report = repair(journal_of(state))
    assert any("is missing" in each for each in report.lost)
    runs_after = await start_and_read(state)
    assert not any(run_id.startswith("other") for run_id in runs_after)
    assert_unchanged_or_reported(runs_before, runs_after, report.lost)


@pytest.mark.parametrize("damage", [zero_both_headers, flip_both_headers])
async def test_a_repair_loses_no_run_if_only_the_headers_of_several_segments_are_lost(
    tmp_path, state, damage
):
    """The salt of a lost header is read from the next segment, or computed from the frames."""
    runs_before = await start_and_read(shutil.copytree(state, tmp_path / "undamaged"))
    for file in segments_of(state)[-3:]:
        content = bytearray(file.read_bytes())
        damage(content, BEGIN)
        file.write_bytes(content)
    with pytest.raises(JournalDamaged):
        await journal_in(state).open()
    problems = check_journal(journal_of(state)).problems
    assert len(problems) == 3
    assert all("has no valid header" in each for each in problems)
    assert repair(journal_of(state)).lost == []
    assert await start_and_read(state) == runs_before


async def test_a_segment_that_the_disk_cannot_read_is_reported_and_its_file_is_kept(
    tmp_path, state, monkeypatch
):
    runs_before = await start_and_read(shutil.copytree(state, tmp_path / "undamaged"))
    unreadable_file, original_open = segments_of(state)[2], open

    def fail(file, *args, **kwargs):
        if Path(file) == unreadable_file:
            raise OSError(EIO, os.strerror(EIO), str(file))
        return original_open(file, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("io.open", fail)
        patch.setattr("builtins.open", fail)
        assert "cannot be read (Input/output error)" in str(
            check_journal(journal_of(state)).problems
        )
        report = repair(journal_of(state))
    assert (Path(report.log_kept_as) / unreadable_file.name).exists()
    assert_unchanged_or_reported(runs_before, await start_and_read(state), report.lost)


async def test_a_repair_loses_no_run_if_the_log_has_a_copy_of_a_segment(tmp_path, state):
    runs_before = await start_and_read(shutil.copytree(state, tmp_path / "undamaged"))
    third = segments_of(state)[2]
    shutil.copy(third, third.with_name("99"))
    assert "several files of the log contain segment" in str(
        check_journal(journal_of(state)).problems
    )
    assert repair(journal_of(state)).lost == []
    assert await start_and_read(state) == runs_before


PAGE_BYTES = 2048
PAGES_TRIED = 8


async def test_a_damaged_history_and_its_damaged_log_are_repaired_together(tmp_path, state):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    runs_before = await start_and_read(shutil.copytree(state, tmp_path / "undamaged"))
    with closing(sqlite3.connect(journal_of(state))) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    pages = journal_of(state).stat().st_size // PAGE_BYTES
    repaired = 0
    for number in range(PAGES_TRIED):
        copy = shutil.copytree(state, tmp_path / f"{number}")
        if number % 2:
            damage_state(copy)
        with journal_of(copy).open("r+b") as file:
            file.seek(rng.randrange(1, pages) * PAGE_BYTES)
            file.write(bytes(PAGE_BYTES))
        if not check_journal(journal_of(copy)).problems:
            continue
        try:
            report = repair(journal_of(copy))
        except JournalDamaged:
            continue
        repaired += 1
        assert_unchanged_or_reported(runs_before, await start_and_read(copy), report.lost)
    assert repaired > 2


async def test_a_repair_reports_runs_that_are_lost_in_the_history_and_have_more_facts_in_the_log(
    state,
):
    with closing(sqlite3.connect(journal_of(state))) as db, db:
        db.execute("UPDATE pages SET sum = 1 WHERE run = 1")
        db.execute("DELETE FROM runs WHERE no = 2")
    report = repair(journal_of(state))
    runs_after = await start_and_read(state)
    for run_id, expected_state in {"run-old-0": State.UNKNOWN, "run-old-1": State.DEAD}.items():
        state_after, _ = runs_after[run_id]
        assert state_after is expected_state
        assert any(run_id in each for each in report.lost)
