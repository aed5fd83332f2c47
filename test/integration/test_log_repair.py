"""A log that is damaged where more stands behind: what can be read goes on, the rest is said."""

from __future__ import annotations

import asyncio
import random
import shutil
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
from fractal_rm.adapters.sqlite import SqliteHistory, check_journal, repair
from fractal_rm.domain.errors import JournalDamaged
from fractal_rm.domain.facts import Finished, Settled
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import begun, entry, write

RUNS = 60
OPEN = State.ACCEPTED, State.RUNNING


def done(journal, name: str) -> None:
    _ = write(journal, begun(name), Finished(1, 200, 0.1, msgspec.Raw(b'"r"')))


def end(journal, name: str) -> None:
    _ = write(journal, begun(name), Settled(State.SUCCEEDED))


async def killed(folder: Path, prefix: str) -> None:
    """Runs in the history that go on in the log, and runs of the log alone."""
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
        if n % 15 == 7:
            done(journal, f"{prefix}-old-{n // 15}")
    end(journal, f"{prefix}-old-3")
    await journal.wait_durable()
    journal.crash()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projector, "PROJECT_EVERY_S", 600)
        patch.setattr(projector, "PROJECT_BYTES", 1 << 60)
        asyncio.run(killed(folder / "state", "run"))
        asyncio.run(killed(folder / "other", "other"))
    return folder


@pytest.fixture
def state(tmp_path, made):
    return shutil.copytree(made, tmp_path / "copy") / "state"


def journal_of(folder: Path) -> Path:
    return folder / "up.journal"


def runs_in(folder: Path) -> dict[str, tuple[State, list]]:
    """Every run, with its facts."""
    history = SqliteHistory(folder)
    found = {}
    for run in history.runs(limit=1_000):
        detail = history.run(run.id)
        assert detail is not None
        found[run.id] = run.state, [each.fact for each in detail.facts]
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
            assert (state, facts) == before[run_id]
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
