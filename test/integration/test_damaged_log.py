"""The log of a killed node is damaged. The next start finds all runs or names the damaged file."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fractal_rm.adapters.journal_files import open_journal
from fractal_rm.adapters.log import LogJournal, projector
from fractal_rm.adapters.log.segments import BEGIN
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.domain.journal_errors import JournalDamaged, JournalError
from fractal_rm.testing.journal import entry

SEGMENT = BEGIN + 4096
RUNS = 60
DAMAGES = 100


def fail_on_loss(error: JournalError) -> None:
    raise AssertionError(error)


def journal_in(folder: Path) -> LogJournal:
    return open_journal(
        folder / "up.journal", limits=lambda: (1 << 30, 1 << 40), retention_ms=lambda: 1_000,
        on_lost=fail_on_loss, segment_bytes=SEGMENT,
    )  # fmt: skip


async def write_and_kill(folder: Path, names: Iterator[str]) -> None:
    journal = journal_in(folder)
    await journal.open()
    for name in names:
        await journal.accept(entry(name, key=name))
    journal.crash()


@pytest.fixture(scope="module")
def two_journals(tmp_path_factory):
    """Two journals of killed processes. Their runs are only in the logs, not in the histories."""
    folder = tmp_path_factory.mktemp("two_journals")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projector, "PROJECT_EVERY_S", 600)
        patch.setattr(projector, "PROJECT_BYTES", 1 << 60)
        asyncio.run(write_and_kill(folder / "state", run_ids()))
        asyncio.run(write_and_kill(folder / "other", (f"other-{n}" for n in range(RUNS))))
    return folder


@pytest.fixture
def state(tmp_path, two_journals):
    """The state folder of one of the two journals."""
    return shutil.copytree(two_journals, tmp_path / "copy") / "state"


def run_ids() -> Iterator[str]:
    return (f"run-{n:03}" for n in range(RUNS))


def segments_of(folder: Path) -> list[Path]:
    """The files of the segments, oldest first."""
    return sorted((folder / "up.log").iterdir(), key=lambda file: int(file.name))


def end_of(file: Path) -> int:
    """The position at which the written part of a segment ends."""
    return len(file.read_bytes().rstrip(b"\0"))


async def recovered_run_ids(folder: Path) -> list[str]:
    """Open a journal. Returns the ids of its runs, or raises a JournalError that names the log."""
    for read in (SqliteHistory(folder).runs, lambda: check_journal(folder / "up.journal")):
        try:
            read()
        except JournalError as error:
            assert str(folder) in str(error)
    journal = journal_in(folder)
    try:
        recovered = await journal.open()
    except JournalError as error:
        assert str(folder / "up.log") in str(error)
        raise
    await journal.close(clean=True)
    return [run.id for run in recovered.runs]


# Each function changes a segment at a position, and returns the end of the changed part.


def flip_bit(data: bytearray, at: int) -> int:
    data[at] ^= 1 << at % 8
    return at + 1


def zero_a_sector(data: bytearray, at: int) -> int:
    begin = at // 512 * 512
    data[begin : begin + 512] = bytes(512)
    return begin + 512


def zero_a_page(data: bytearray, at: int) -> int:
    begin = at // 4096 * 4096
    data[begin : begin + 4096] = bytes(4096)
    return begin + 4096


def cut(data: bytearray, at: int) -> int:
    del data[at:]
    return SEGMENT


@pytest.mark.parametrize("damage", [flip_bit, zero_a_sector, zero_a_page, cut])
async def test_a_start_after_damage_finds_all_runs_or_fails(tmp_path, state, damage):
    """Damage at the end looks like an unfinished write. Then a start finds only earlier runs."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    undamaged, failed_starts = list(run_ids()), 0
    for number in range(DAMAGES // 4):
        copy = tmp_path / f"{number}"
        shutil.copytree(state, copy)
        segments = segments_of(copy)
        file = rng.choice(segments)
        content = bytearray(file.read_bytes())
        end, begin = end_of(file), rng.choice((0, BEGIN))
        damage_end = damage(content, rng.randrange(begin, end))
        file.write_bytes(content)
        try:
            recovered = await recovered_run_ids(copy)
        except JournalDamaged:
            failed_starts += 1
            continue
        at_the_end = file == segments[-1] and (damage_end + 300 > end or damage_end == BEGIN)
        assert recovered == undamaged[: len(recovered)]
        if not at_the_end:
            assert len(recovered) == len(undamaged)
    assert failed_starts


def swap(first: Path, second: Path) -> None:
    aside = first.with_name("aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


async def test_segments_are_found_after_their_files_are_renamed(state):
    segments = segments_of(state)
    swap(segments[0], segments[2])
    assert await recovered_run_ids(state) == list(run_ids())


async def test_other_files_in_the_folder_of_a_log_are_ignored(state):
    folder = state / "up.log"
    for name in ("notes", "1.new", "lost+found"):
        (folder / name).mkdir()
    (folder / "backup").write_text("of a user")
    assert await recovered_run_ids(state) == list(run_ids())
    assert (folder / "backup").read_text() == "of a user"


async def test_an_empty_file_with_the_name_of_a_segment_is_ignored(state):
    (state / "up.log" / "99").touch()
    assert await recovered_run_ids(state) == list(run_ids())


def replaced_by(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def replace(file: Path) -> None:
        file.unlink()
        make(file)

    return replace


def replace_by_segment_of_another_log(file: Path) -> None:
    shutil.copy(file.parents[2] / "other" / "up.log" / file.name, file)


CHANGES = {
    "deleted": Path.unlink,
    "a FIFO": replaced_by(os.mkfifo),
    "a directory": replaced_by(os.mkdir),
    "empty": replaced_by(Path.touch),
    "longer": lambda file: file.write_bytes(file.read_bytes() + bytes(512)),
    "of another log": replace_by_segment_of_another_log,
    "a dangling link": replaced_by(lambda file: file.symlink_to("nowhere")),
    "copied": lambda file: shutil.copy(file, file.with_name("99")),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("position", [0, 1, -2])
async def test_a_start_fails_if_a_segment_is_changed(state, change, position):
    segments = segments_of(state)
    CHANGES[change](segments[position])
    assert SqliteHistory(state).page().unreadable, "the list does not report the damage"
    with pytest.raises(JournalDamaged):
        await recovered_run_ids(state)


async def test_a_missing_folder_of_a_log_is_reported(state):
    journal = journal_in(state)
    await journal.open()
    await journal.close(clean=True)
    shutil.rmtree(state / "up.log")
    with pytest.raises(JournalDamaged, match=r"segment \d+ is missing"):
        await recovered_run_ids(state)
    (unreadable,) = SqliteHistory(state).page().unreadable
    assert "is missing" in unreadable


async def test_an_error_names_a_log_whose_folder_is_a_file(tmp_path):
    (tmp_path / "up.log").touch()
    with pytest.raises(JournalError, match=r"up\.log cannot be used"):
        await journal_in(tmp_path).open()


async def test_a_failed_start_can_be_repeated(state):
    segment = segments_of(state)[1]
    segment.rename(state / "aside")
    journal = journal_in(state)
    with pytest.raises(JournalDamaged):
        await journal.open()
    (state / "aside").rename(segment)
    recovered = await journal.open()
    await journal.close(clean=True)
    assert [run.id for run in recovered.runs] == list(run_ids())


async def test_an_error_names_a_segment_that_cannot_be_read(state, monkeypatch):
    """The permission error is simulated, because the tests may run as root."""
    original_open = Path.open

    def refuse(path, *args, **kwargs):
        if path.name == "2":
            raise PermissionError(13, "Permission denied", str(path))
        return original_open(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(JournalError, match=r"up\.log/2 cannot be used .*permission"):
        await recovered_run_ids(state)


async def test_if_the_log_is_damaged_a_list_reports_it_and_has_the_runs_of_the_history(tmp_path):
    journal = journal_in(tmp_path)
    await journal.open()
    await journal.accept(entry("copied"))
    await journal.update_history()
    for name in ("one", "flipped", "three"):
        await journal.accept(entry(name))
    journal.crash()
    history = SqliteHistory(tmp_path)
    assert [run.id for run in history.page().runs] == ["three", "one", "flipped", "copied"]
    flip_bit_in_log(tmp_path / "up.log", b"flipped")
    page = history.page()
    assert [run.id for run in page.runs] == ["copied"]
    assert "is not valid at byte" in page.unreadable[0]
    detail = history.run("copied")
    assert (len(detail.facts), "is not valid at byte" in detail.unreadable) == (1, True)
    with pytest.raises(JournalDamaged, match="is not valid at byte"):
        history.run("three")
    assert [sum(ledger.states.values()) for ledger in history.flow_counts()] == [1]


def flip_bit_in_log(folder: Path, content: bytes) -> None:
    """Flip a bit of ``content``, in the first file of ``folder`` that contains ``content``."""
    path = next(path for path in folder.iterdir() if content in path.read_bytes())
    data = bytearray(path.read_bytes())
    flip_bit(data, data.index(content))
    path.write_bytes(data)
