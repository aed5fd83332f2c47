"""Journals whose files were moved, deleted or replaced while they are open."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest
from disk_journals import open_and_close, sqlite_journal

from fractal_rm.domain.journal_errors import (
    JournalMoved,
)
from fractal_rm.testing.journal import (
    entry,
)


def delete_the_journal(folder: Path) -> None:
    (folder / "up.journal").unlink()


def delete_the_wal(folder: Path) -> None:
    (folder / "up.journal-wal").unlink()


def delete_the_index_of_the_wal(folder: Path) -> None:
    (folder / "up.journal-shm").unlink()


def move_and_link(path: Path) -> None:
    """Move a file, and replace it by a link to the new place, as users do to use another disk."""
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def replace_the_journal_by_a_link(folder: Path) -> None:
    move_and_link(folder / "up.journal")


def replace_the_wal_by_a_link(folder: Path) -> None:
    move_and_link(folder / "up.journal-wal")


def rename_the_journal(folder: Path) -> None:
    (folder / "up.journal").rename(folder / "old.journal")


def replace_the_journal_by_a_copy(folder: Path) -> None:
    shutil.copy(folder / "up.journal", folder / "new")
    (folder / "new").replace(folder / "up.journal")


def replace_the_folder_by_a_copy(folder: Path) -> None:
    folder.rename(folder.with_name("before"))
    shutil.copytree(folder.with_name("before"), folder)


@pytest.mark.parametrize(
    "change",
    [delete_the_journal, delete_the_wal, delete_the_index_of_the_wal,
     replace_the_journal_by_a_link, replace_the_wal_by_a_link, rename_the_journal,
     replace_the_journal_by_a_copy, replace_the_folder_by_a_copy],
)  # fmt: skip
async def test_a_journal_refuses_runs_if_one_of_its_files_was_deleted_renamed_or_replaced(
    tmp_path, change
):
    folder = tmp_path / "state"
    journal = sqlite_journal(folder)
    await journal.open()
    await journal.accept(entry("before"))
    change(folder)
    for name in ("after", "again"):
        with pytest.raises(JournalMoved, match="is not the file that is open"):
            await journal.accept(entry(name))
    await journal.close(clean=True)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
async def test_a_journal_that_is_a_link_refuses_runs_if_a_file_at_its_target_is_moved(
    tmp_path, suffix
):
    data = tmp_path / "data"
    for folder in (data, tmp_path / "state"):
        folder.mkdir()
    (tmp_path / "state" / "up.journal").symlink_to(data / "real")
    journal = sqlite_journal(tmp_path / "state")
    await journal.open()
    await journal.accept(entry("before"))
    (data / f"real{suffix}").rename(data / "aside")
    with pytest.raises(JournalMoved):
        await journal.accept(entry("after"))
    (data / "aside").rename(data / f"real{suffix}")
    await journal.wait_durable()
    await journal.close(clean=True)


async def test_if_the_link_to_a_journal_was_changed_runs_are_refused(tmp_path):
    (tmp_path / "up.journal").symlink_to("one")
    journal = sqlite_journal(tmp_path)
    await journal.open()
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").replace(tmp_path / "up.journal")
    with pytest.raises(JournalMoved):
        await journal.accept(entry("after"))
    await journal.close(clean=True)


async def test_if_a_file_system_is_mounted_over_the_journal_runs_are_refused(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("cannot mount a file system: only root may mount")
    try:
        with pytest.raises(JournalMoved):
            await journal.accept(entry("over"))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    await journal.wait_durable()
    assert await journal.accept(entry("back")) is None
    await journal.close(clean=True)


async def test_if_the_wal_was_deleted_closing_the_journal_saves_its_runs(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    await journal.accept(entry("A"))
    delete_the_wal(tmp_path)
    journal.check()
    await journal.close(clean=True)
    assert [run.id for run in (await open_and_close(tmp_path)).runs] == ["A"]


async def move_during_a_sync(folder: Path):
    """Accept a run. While the run is synced, rename the folder of the journal.

    Returns the journal, the new path of the folder, and the future of the run.
    """
    journal = sqlite_journal(folder)
    await journal.open()
    aside, sync = folder.with_name("aside"), journal.log.sync

    def sync_and_move():
        end = sync()
        journal.log.sync = sync
        folder.rename(aside)
        return end

    journal.log.sync = sync_and_move
    syncing_run = journal.accept(entry("A"))
    while journal.blocked is None:
        await asyncio.sleep(0)
    return journal, aside, syncing_run


async def test_a_run_that_is_synced_during_a_rename_is_accepted_when_the_folder_is_back(tmp_path):
    folder = tmp_path / "state"
    journal, aside, syncing_run = await move_during_a_sync(folder)
    with pytest.raises(JournalMoved):
        await journal.accept(entry("B"))
    assert not syncing_run.done()
    aside.rename(folder)
    assert await syncing_run is None
    assert await journal.accept(entry("C")) is None
    await journal.close(clean=True)
    assert [run.id for run in (await open_and_close(folder)).runs] == ["A", "C"]


async def test_a_run_that_is_synced_during_a_rename_does_not_block_close(tmp_path):
    journal, aside, syncing_run = await move_during_a_sync(tmp_path / "state")
    await journal.close(clean=True)
    with pytest.raises(JournalMoved):
        await syncing_run
    recovered = await open_and_close(aside)
    assert ([run.id for run in recovered.runs], recovered.clean) == (["A"], False)


async def test_an_idle_journal_whose_files_were_deleted_does_not_close_cleanly(tmp_path):
    journal = sqlite_journal(tmp_path)
    await journal.open()
    (tmp_path / "up.journal").unlink()
    await journal.close(clean=True)
    assert isinstance(journal.blocked, JournalMoved)
