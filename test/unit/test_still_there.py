"""Files that are open, and the paths at which the next start will look for them."""

import errno
import os
from pathlib import Path

import pytest

from fractal_rm.adapters.still_there import LOOK_AT_PATHS_S, SETTLED_S, StillThere
from fractal_rm.domain.journal_errors import JournalGone


class Clock:
    """Stands still unless it is told otherwise."""

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
def looked() -> list[str]:
    """Paths that were followed."""
    return []


@pytest.fixture
def there(tmp_path: Path, folder: Path, clock: Clock, looked: list[str]):
    """Its folder has been as it is for long."""

    def look(path: str) -> os.stat_result:
        looked.append(path)
        return os.lstat(path)

    there = StillThere(clock)
    there.add(str(folder / "journal"), look)
    there.check()
    clock.now_s += SETTLED_S
    there.check()
    looked.clear()
    while made(tmp_path / "later").stat().st_ctime_ns <= folder.stat().st_ctime_ns:
        pass  # the file system's clock counts in steps: until its next one
    yield there
    there.close()


def test_while_the_folder_is_as_it_was_no_path_is_followed(there, looked):
    there.check()
    assert looked == []


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "journal").unlink(),
        lambda folder: (folder / "journal").rename(folder / "other"),
        lambda folder: folder.rename(folder.with_name("other")),
        lambda folder: made(folder / "new").replace(folder / "journal"),
    ],
    ids=["deleted", "renamed", "its folder renamed", "replaced"],
)
def test_what_is_not_at_its_path_is_noticed_at_once_and_as_long_as_it_is_so(
    there, folder, clock, change
):
    change(folder)
    for _ in range(3):
        with pytest.raises(JournalGone, match="put that one back"):
            there.check()
        clock.now_s += SETTLED_S


def test_it_is_well_again_when_the_file_is_put_back(there, folder):
    (folder / "journal").rename(folder / "other")
    with pytest.raises(JournalGone):
        there.check()
    (folder / "other").rename(folder / "journal")
    there.check()


def test_a_folder_that_has_changed_just_now_is_not_trusted(there, folder, clock, looked):
    made(folder / "another")
    for _ in range(2):
        there.check()
    assert len(looked) == 2
    clock.now_s += SETTLED_S
    there.check()
    looked.clear()
    there.check()
    assert looked == []


def test_what_is_done_farther_up_is_noticed_at_the_next_look_at_the_paths(there, folder, clock):
    folder.parent.rename(folder.parent.with_name("elsewhere"))
    clock.now_s += LOOK_AT_PATHS_S
    with pytest.raises(JournalGone):
        there.check()


def test_where_the_folder_cannot_be_looked_at_the_paths_tell(there, folder, monkeypatch):
    def fails(_):
        raise OSError(errno.ESTALE, "Stale file handle")  # as of a disk or a server that is gone

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", fails)
        there.check()
        (folder / "journal").rename(folder / "other")
        with pytest.raises(JournalGone):
            there.check()


def made(path: Path) -> Path:
    path.write_bytes(b"")
    return path
