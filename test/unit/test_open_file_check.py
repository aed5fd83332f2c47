"""`OpenFileCheck` detects open files that are no longer at their paths."""

import errno
import os
from pathlib import Path

import pytest

from fractal_rm.adapters.open_file_check import CHECK_PATHS_S, TRUSTED_AFTER_S, OpenFileCheck
from fractal_rm.domain.journal_errors import JournalMoved


class Clock:
    """A clock that only the test moves."""

    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "above" / "state"
    folder.mkdir(parents=True)
    (folder / "journal").write_bytes(b"")
    return folder


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def checked_paths() -> list[str]:
    """The paths that the check has looked at, in order."""
    return []


@pytest.fixture
def open_file_check(tmp_path: Path, folder: Path, clock: Clock, checked_paths: list[str]):
    """A check of the file ``journal``. Its folder has been unchanged for a long time."""

    def stat(path: str) -> os.stat_result:
        checked_paths.append(path)
        return os.lstat(path)

    open_file_check = OpenFileCheck(clock)
    open_file_check.add(str(folder / "journal"), stat)
    open_file_check.check()
    clock.now_s += TRUSTED_AFTER_S
    open_file_check.check()
    checked_paths.clear()
    while created(tmp_path / "later").stat().st_ctime_ns <= folder.stat().st_ctime_ns:
        pass  # wait until a new file has a later ctime than the folder
    yield open_file_check
    open_file_check.close()


def test_no_path_is_checked_while_the_folder_is_unchanged(open_file_check, checked_paths):
    open_file_check.check()
    assert checked_paths == []


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "journal").unlink(),
        lambda folder: (folder / "journal").rename(folder / "other"),
        lambda folder: folder.rename(folder.with_name("other")),
        lambda folder: created(folder / "new").replace(folder / "journal"),
    ],
    ids=["deleted", "renamed", "its folder renamed", "replaced"],
)
def test_a_file_that_is_not_at_its_path_is_reported_at_every_check(
    open_file_check, folder, clock, change
):
    change(folder)
    for _ in range(3):
        with pytest.raises(JournalMoved, match="move the original file back"):
            open_file_check.check()
        clock.now_s += TRUSTED_AFTER_S


def test_a_file_that_is_put_back_is_no_longer_reported(open_file_check, folder):
    (folder / "journal").rename(folder / "other")
    with pytest.raises(JournalMoved):
        open_file_check.check()
    (folder / "other").rename(folder / "journal")
    open_file_check.check()


def test_a_folder_that_has_just_changed_is_not_trusted(
    open_file_check, folder, clock, checked_paths
):
    created(folder / "another")
    for _ in range(2):
        open_file_check.check()
    assert len(checked_paths) == 2
    clock.now_s += TRUSTED_AFTER_S
    open_file_check.check()
    checked_paths.clear()
    open_file_check.check()
    assert checked_paths == []


def test_a_renamed_parent_folder_is_found_at_the_next_check_of_the_paths(
    open_file_check, folder, clock
):
    folder.parent.rename(folder.parent.with_name("elsewhere"))
    clock.now_s += CHECK_PATHS_S
    with pytest.raises(JournalMoved):
        open_file_check.check()


def test_the_paths_are_checked_if_the_folder_cannot_be_read(open_file_check, folder, monkeypatch):
    def fails(_):
        raise OSError(errno.ESTALE, "Stale file handle")  # the disk or file server is gone

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", fails)
        open_file_check.check()
        (folder / "journal").rename(folder / "other")
        with pytest.raises(JournalMoved):
            open_file_check.check()


def created(path: Path) -> Path:
    path.write_bytes(b"")
    return path
