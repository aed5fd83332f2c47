"""If a repair is killed, the journal is unchanged or repaired, and all files are kept."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_log_repair import damage_state, journal_of, make_journals, start_and_read

from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.adapters.sqlite.repair import repair
from fractal_rm.domain.journal_errors import JournalDamaged

# Names of audit events: see sys.addaudithook.
FILE_CHANGES = ("os.rename", "os.link", "os.mkdir", "os.remove", "shutil.copyfile")


@pytest.fixture(scope="module")
def journals(tmp_path_factory):
    return make_journals(tmp_path_factory.mktemp("made"))


@pytest.fixture
def state(tmp_path, journals):
    return shutil.copytree(journals, tmp_path / "copy") / "state"


class Killed(BaseException):
    """Raised to simulate the end of the process."""


class FileChangeKiller:
    """Ends the process after ``changes_left`` more changes of the file system."""

    changes_left = float("inf")

    @classmethod
    def hook(cls, event: str, args: tuple) -> None:
        if event in FILE_CHANGES or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)):
            cls.changes_left -= 1
            if cls.changes_left < 0:
                cls.changes_left = float("inf")
                cls.end_process()

    @staticmethod
    def end_process() -> None:
        raise Killed


sys.addaudithook(FileChangeKiller.hook)


def repair_killed_at(folder: Path, n: int) -> bool:
    """Repair a journal, and end the repair after ``n`` file changes.

    Returns False if the repair was completed with at most ``n`` changes.
    """
    FileChangeKiller.changes_left = n
    try:
        repair(journal_of(folder))
    except Killed:
        return True
    finally:
        FileChangeKiller.changes_left = float("inf")
    return False


def is_kept(folder: Path, content: bytes) -> bool:
    """Whether a file of the log, or of a kept log, has this content."""
    files = (file for log in folder.glob("up.log*") for file in log.iterdir())
    return any(file.read_bytes() == content for file in files)


async def assert_repaired_again(folder: Path, content: bytes, repaired_runs: dict) -> bool:
    """Repair a journal after a killed repair. Returns whether it was already repaired before."""
    try:
        runs = await start_and_read(
            shutil.copytree(folder, folder.with_name(f"{folder.name}-started"))
        )
    except JournalDamaged:
        runs = None
    assert runs in (None, repaired_runs)
    assert is_kept(folder, content)
    if runs is not None:
        assert is_kept(folder.with_name(f"{folder.name}-started"), content)
    if check_journal(journal_of(folder)).problems:
        repair(journal_of(folder))
    assert is_kept(folder, content)
    assert await start_and_read(folder) == repaired_runs
    return runs is not None


async def test_a_repair_that_is_killed_at_any_step_is_repeated_safely(tmp_path, state):
    _, content = damage_state(state)
    repaired_copy = shutil.copytree(state, tmp_path / "repaired")
    assert repair(journal_of(repaired_copy)).lost
    repaired_runs = await start_and_read(repaired_copy)
    n, already_repaired = 0, 0
    while True:
        folder = shutil.copytree(state, tmp_path / f"{n}")
        if not repair_killed_at(folder, n):
            break
        already_repaired += await assert_repaired_again(folder, content, repaired_runs)
        n += 1
    assert n > 25
    assert 0 < already_repaired < n


_KILLED_REPAIR = """
import os, signal, sys
from pathlib import Path
sys.path += sys.argv[3:]
import test_log_repair_kills as log
log.FileChangeKiller.end_process = staticmethod(lambda: os.kill(os.getpid(), signal.SIGKILL))
log.repair_killed_at(Path(sys.argv[1]), int(sys.argv[2]))
"""


@pytest.mark.parametrize("fraction", [0.4, 0.85])
async def test_all_files_are_kept_if_the_process_is_killed_during_a_repair(
    tmp_path, state, fraction
):
    _, content = damage_state(state)
    repaired_copy = shutil.copytree(state, tmp_path / "repaired")
    FileChangeKiller.changes_left = 1_000_000
    repair(journal_of(repaired_copy))
    steps = 1_000_000 - FileChangeKiller.changes_left
    FileChangeKiller.changes_left = float("inf")
    repaired_runs = await start_and_read(repaired_copy)
    import_paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    n = str(int(steps * fraction))
    killed_process = subprocess.run(
        [sys.executable, "-c", _KILLED_REPAIR, str(state), n, *import_paths], check=False
    )
    assert killed_process.returncode == -signal.SIGKILL
    await assert_repaired_again(state, content, repaired_runs)
