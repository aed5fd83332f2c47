"""A log that is damaged where more stands behind: what can be read goes on, the rest is said."""

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
    flip,
    journal_in,
    segments_of,
    zero_a_page,
    zero_a_sector,
)

from fractal_rm.adapters.log import projector
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.adapters.sqlite.repair import repair
from fractal_rm.domain.facts import Finished, Settled
from fractal_rm.domain.journal_errors import JournalDamaged
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import begun, entry, write

RUNS = 60
OPEN = State.ACCEPTED, State.RUNNING


def done(journal, name: str) -> None:
    """One has an answer that is a file of its own."""
    answer = b'"%b"' % (b"r" * (70_000 if name.endswith("25") else 1))
    _ = write(journal, begun(name), Finished(1, 200, 0.1, msgspec.Raw(answer)))


def end(journal, name: str) -> None:
    _ = write(journal, begun(name), Settled(State.SUCCEEDED))


async def killed(folder: Path, prefix: str) -> None:
    """Runs in the history that go on in the log, runs of the log alone, and some that ended.

    The history has what ended in the first half.
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
            done(journal, f"{prefix}-{n - 8:03}")
            end(journal, f"{prefix}-{n - 8:03}")
        if n == RUNS // 2:
            assert await journal._projector._bring_over(whole=False)
        if n % 15 == 7:
            done(journal, f"{prefix}-old-{n // 15}")
    end(journal, f"{prefix}-old-3")
    await journal.wait_durable()
    journal.crash()


def make(folder: Path) -> Path:
    """Two journals that were killed with most of their runs in their logs alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projector, "PROJECT_EVERY_S", 600)
        patch.setattr(projector, "PROJECT_BYTES", 1 << 60)
        asyncio.run(killed(folder / "state", "run"))
        asyncio.run(killed(folder / "other", "other"))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def state(tmp_path, made):
    return shutil.copytree(made, tmp_path / "copy") / "state"


def damaged_state(state: Path) -> tuple[Path, bytes]:
    """A state whose third segment has a gap."""
    file = segments_of(state)[2]
    content = bytearray(file.read_bytes())
    zero_a_sector(content, BEGIN + 1_500)
    file.write_bytes(content)
    return file, bytes(content)


def journal_of(folder: Path) -> Path:
    return folder / "up.journal"


def runs_in(folder: Path) -> dict[str, tuple[State, list]]:
    """Every run of a history that has its log, with its facts."""
    found: dict[str, tuple[State, list]] = {}
    with closing(sqlite3.connect(journal_of(folder))) as db:
        for run_id, state, body in db.execute(
            "SELECT id, state, body FROM runs LEFT JOIN pages ON pages.run = runs.no ORDER BY place"
        ):
            found.setdefault(run_id, (State(state), []))[1].extend(json.loads(body or "[]"))
    return found


async def started(folder: Path) -> dict[str, tuple[State, list]]:
    journal = journal_in(folder)
    found = await journal.open()
    assert found.broken == []
    await journal.close(clean=True)
    assert check_journal(journal_of(folder)).problems == []
    return runs_in(folder)


def assert_honest(before: dict, after: dict, gone: list[str]) -> None:
    """Each run is what it was, or is known not to be; none goes on that is not whole."""
    for run_id, (state, facts) in after.items():
        if state in (State.UNKNOWN, State.DEAD):
            assert any(run_id in each for each in gone)
        elif state in OPEN:
            assert (state, facts) == before[run_id]  # it goes on from all that it has done
        else:
            assert state is before[run_id][0]
    assert gone or before == after


def both_headers_zeroed(data: bytearray, at: int) -> int:
    data[:BEGIN] = bytes(BEGIN)
    return BEGIN


def both_headers_flipped(data: bytearray, at: int) -> int:
    for place in (0, 2048):
        data[place + 9] ^= 1
    return BEGIN


DAMAGES = [flip, zero_a_sector, zero_a_page, cut, both_headers_zeroed, both_headers_flipped]


@pytest.mark.parametrize("harm", DAMAGES)
async def test_what_is_damaged_in_a_log_is_named_repaired_and_kept(tmp_path, state, harm):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    before = await started(shutil.copytree(state, tmp_path / "whole"))
    repaired = 0
    for number in range(5):
        copy = shutil.copytree(state, tmp_path / f"{number}")
        segments = segments_of(copy)
        file = chance.choice(segments[:-1])
        content = bytearray(file.read_bytes())
        harm(content, chance.randrange(BEGIN, end_of(file)))
        file.write_bytes(content)
        try:
            after = await started(shutil.copytree(copy, tmp_path / f"{number}-started"))
        except JournalDamaged:
            pass
        else:
            assert after == before  # in what is not read any more
            continue
        repaired += 1
        problems = check_journal(journal_of(copy)).problems
        assert any(f"(file {file.name})" in each or "is missing" in each for each in problems)
        report = repair(journal_of(copy))
        assert check_journal(journal_of(copy)).problems == []
        assert report.log_kept_as is not None
        assert (Path(report.log_kept_as) / file.name).read_bytes() == content
        after = await started(copy)
        assert_honest(before, after, report.gone)
    assert repaired > 2


async def test_a_log_that_is_well_is_left_as_it_is(state):
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


def put_a_fifo_there(segments: list[Path]) -> None:
    segments[2].unlink()
    os.mkfifo(segments[2])


def put_a_folder_there(segments: list[Path]) -> None:
    segments[2].unlink()
    (segments[2] / "of a person").mkdir(parents=True)


def put_one_of_another_log_there(segments: list[Path]) -> None:
    shutil.copy(segments[2].parents[2] / "other" / "up.log" / segments[2].name, segments[2])


FILES_DAMAGED = {
    delete: "segment 5 of the log is missing",
    delete_the_last: "segment 7 of the log is missing",
    delete_the_last_two: "segment 6 of the log is missing",
    delete_all: "segment 2 of the log is missing",
    put_a_fifo_there: "cannot be read",
    put_a_folder_there: "cannot be read",
    put_one_of_another_log_there: "is of another log",
}


@pytest.mark.parametrize("harm", FILES_DAMAGED)
async def test_a_segment_that_is_gone_is_missed_and_what_is_left_goes_on(tmp_path, state, harm):
    before = await started(shutil.copytree(state, tmp_path / "whole"))
    harm(segments_of(state))
    with pytest.raises(JournalDamaged):
        await journal_in(state).open()
    problems = check_journal(journal_of(state)).problems
    assert any(FILES_DAMAGED[harm] in each for each in problems)
    report = repair(journal_of(state))
    assert any("is missing" in each for each in report.gone)
    after = await started(state)
    assert not any(run_id.startswith("other") for run_id in after)
    assert_honest(before, after, report.gone)


@pytest.mark.parametrize("harm", [both_headers_zeroed, both_headers_flipped])
async def test_headers_that_are_lost_of_any_segments_cost_nothing(tmp_path, state, harm):
    """Not of the last one, nor of two that follow each other, whose salts no other one has."""
    before = await started(shutil.copytree(state, tmp_path / "whole"))
    for file in segments_of(state)[-3:]:
        content = bytearray(file.read_bytes())
        harm(content, BEGIN)
        file.write_bytes(content)
    with pytest.raises(JournalDamaged):
        await journal_in(state).open()
    problems = check_journal(journal_of(state)).problems
    assert len(problems) == 3
    assert all("has no header that holds" in each for each in problems)
    assert repair(journal_of(state)).gone == []
    assert await started(state) == before


async def test_a_segment_that_the_disk_cannot_read_is_a_gap_and_is_kept(
    tmp_path, state, monkeypatch
):
    before = await started(shutil.copytree(state, tmp_path / "whole"))
    bad, opened = segments_of(state)[2], open

    def fail(file, *args, **how):
        if Path(file) == bad:
            raise OSError(EIO, os.strerror(EIO), str(file))
        return opened(file, *args, **how)

    with monkeypatch.context() as patch:
        patch.setattr("io.open", fail)
        patch.setattr("builtins.open", fail)
        assert "cannot be read (Input/output error)" in str(
            check_journal(journal_of(state)).problems
        )
        report = repair(journal_of(state))
    assert (Path(report.log_kept_as) / bad.name).exists()
    assert_honest(before, await started(state), report.gone)


async def test_a_file_that_is_there_twice_costs_nothing(tmp_path, state):
    before = await started(shutil.copytree(state, tmp_path / "whole"))
    third = segments_of(state)[2]
    shutil.copy(third, third.with_name("99"))
    assert "all are segment" in str(check_journal(journal_of(state)).problems)
    assert repair(journal_of(state)).gone == []
    assert await started(state) == before


PAGE_BYTES = 2048
PAGES_TRIED = 8


async def test_a_history_and_its_log_that_are_both_damaged_are_repaired_together(tmp_path, state):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    before = await started(shutil.copytree(state, tmp_path / "whole"))
    with closing(sqlite3.connect(journal_of(state))) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    pages = journal_of(state).stat().st_size // PAGE_BYTES
    repaired = 0
    for number in range(PAGES_TRIED):
        copy = shutil.copytree(state, tmp_path / f"{number}")
        if number % 2:
            damaged_state(copy)
        with journal_of(copy).open("r+b") as file:
            file.seek(chance.randrange(1, pages) * PAGE_BYTES)
            file.write(bytes(PAGE_BYTES))
        if not check_journal(journal_of(copy)).problems:
            continue
        try:
            report = repair(journal_of(copy))
        except JournalDamaged:
            continue
        repaired += 1
        assert_honest(before, await started(copy), report.gone)
    assert repaired > 2


async def test_what_a_log_tells_of_a_run_that_the_history_has_lost_harms_nothing(state):
    with closing(sqlite3.connect(journal_of(state))) as db, db:
        db.execute("UPDATE pages SET sum = 1 WHERE run = 1")
        db.execute("DELETE FROM runs WHERE no = 2")
    report = repair(journal_of(state))
    after = await started(state)
    for run_id, ended in {"run-old-0": State.UNKNOWN, "run-old-1": State.DEAD}.items():
        assert after[run_id][0] is ended
        assert any(run_id in each for each in report.gone)
