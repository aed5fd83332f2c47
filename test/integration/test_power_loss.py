"""After a power loss at any time, all acknowledged data is on the disk.

Without fsync, the same test finds losses, which shows that the test can detect losses.
"""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from brokers import need

sys.path.insert(0, str(Path(__file__).parent))
from power_loss import Disk, record, replay

from fractal_rm.adapters.journal_files import open_journal
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.domain.journal_errors import JournalDamaged

WRITER = """
import asyncio, os, sys
from pathlib import Path
import msgspec
from fractal_rm.adapters.journal_files import open_journal
from fractal_rm.adapters.log import projector
from fractal_rm.adapters.log.blob_folder import FolderBlobs
from fractal_rm.adapters.log.disk import FolderDisk
from fractal_rm.domain.facts import Finished, Settled
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import accepted, append_fact, begun, entry, write

class Unsynced(FolderDisk):
    def sync(self, name):
        pass

class UnsyncedBlobs(FolderBlobs):
    def sync(self, names):
        pass

async def main(folder, mode):
    projector.PROJECT_BYTES = 200_000
    journal = open_journal(
        Path(folder) / "up.journal", limits=lambda: (1 << 30, 1 << 40), retention_ms=lambda: 1_000,
        on_lost=print, segment_bytes=100_000,
        synchronous="OFF" if mode == "history-unsynced" else "FULL",
        disk=Unsynced if mode == "log-unsynced" else FolderDisk,
        blobs=UnsyncedBlobs if mode == "blobs-unsynced" else FolderBlobs)
    await journal.open()

    async def accept_run(n):
        name = f"run-{n:04}"
        payload = b'"' + b"x" * (70_000 if n % 5 == 0 else 6000) + b'"'
        await journal.accept(entry(name, facts=(accepted(payload=payload),)))
        os.write(1, f"{name}\\n".encode())   # the acknowledgement
        if n % 3 == 0:
            ended = begun(name)
            append_fact(journal, ended, Finished(1, 200, 0.1, msgspec.Raw(b'"r"')))
            await write(journal, ended, Settled(State.SUCCEEDED))
            os.write(1, f"{name} settled\\n".encode())

    for first in range(0, 600, 6):
        await asyncio.gather(*(accept_run(n) for n in range(first, first + 6)))
    await journal.close(clean=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def losses(tmp_path: Path, mode: str, max_losses: int = sys.maxsize) -> tuple[list[str], int]:
    """Return the acknowledged data that a power loss would lose, and the number of checks.

    ``mode`` says what the writer does not sync. The checks stop after ``max_losses`` losses.
    """
    need("strace")
    folder, trace = tmp_path / "state", tmp_path / "trace"
    folder.mkdir()
    record([sys.executable, "-c", WRITER, str(folder), mode], trace)
    disk = Disk(folder)
    acknowledged: set[str] = set()
    lost_names: list[str] = []
    checks = 0
    for number, output in enumerate(replay(trace, disk)):
        acknowledged.update(output.decode().split("\n")[:-1])
        if number % 23 or len(lost_names) > max_losses:  # a check is slow: it opens a journal
            continue
        checks += 1
        copy = tmp_path / f"after-{number}"
        disk.write_to(copy)
        lost_names += [f"{name} at {number}" for name in acknowledged - await recovered_names(copy)]
    assert len(acknowledged) == 800
    return lost_names, checks


async def recovered_names(folder: Path) -> set[str]:
    """The names of the runs in a journal, and "NAME settled" for each ended run.

    The set is empty if the journal is damaged.
    """
    journal = open_journal(
        folder / "up.journal",
        limits=lambda: (1 << 30, 1 << 40),
        retention_ms=lambda: 1_000,
        on_lost=lambda _: None,
    )
    try:
        await journal.open()
    except JournalDamaged:
        return set()
    await journal.close(clean=True)
    with closing(sqlite3.connect(folder / "up.journal")) as db:
        runs = db.execute("SELECT id, state FROM runs").fetchall()
    if check_journal(folder / "up.journal").problems:
        return set()
    names = {name for name, _ in runs}
    return names | {f"{name} settled" for name, state in runs if state == "succeeded"}


@pytest.mark.slow
async def test_acknowledged_data_survives_the_loss_of_all_unsynced_data(tmp_path):
    lost_names, checks = await losses(tmp_path, "synced")
    assert lost_names == []
    assert checks > 20


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["log-unsynced", "history-unsynced", "blobs-unsynced"])
async def test_without_fsync_the_same_test_finds_losses(tmp_path, mode):
    lost_names, _ = await losses(tmp_path, mode, max_losses=100)
    assert len(lost_names) > 100
