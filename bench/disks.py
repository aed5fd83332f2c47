"""A disk for each system that is measured: an ext4 filesystem in a file, on a device of its own.

The sectors that the device was told to write are everything: data, the filesystem's own journal and
its tables. /proc/PID/io leaves those out, and counts what is written over before it is sent.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

SECTOR_BYTES = 512  # of /sys/block/*/stat, whatever the device's own are
IMAGE_MIB = 2048


class Disk(Protocol):
    """Where a system keeps its files."""

    folder: Path
    counts: str  # what `written` counts, for the table

    def written(self, *pids: int) -> int:
        """Bytes so far, once what the processes have written is on the disk."""
        ...


class LoopDisk:
    """A mounted loop device."""

    counts = "sectors of its device"

    def __init__(self, folder: Path) -> None:
        """Take the filesystem that is mounted there."""
        self.folder = folder
        device = _of("findmnt", "--noheadings", "--output", "SOURCE", folder)
        self._stat = Path("/sys/block", Path(device).name, "stat")

    def written(self, *_: int) -> int:
        """Sectors written since the device was made, in bytes."""
        _of("sync", "--file-system", self.folder)
        return int(self._stat.read_text().split()[6]) * SECTOR_BYTES


class SharedDisk:
    """The disk that everything shares: processes are asked what they have caused to be written.

    Where the page cache has large folios, a small write counts as the whole folio that it is in:
    far more than what the disk is told to write.
    """

    counts = "of /proc/PID/io: no loop devices here"

    def __init__(self, folder: Path) -> None:
        """Nothing is made."""
        self.folder = folder
        self._of_process: dict[int, int] = {}

    def written(self, *pids: int) -> int:
        """A process that has ended counts with what it had when it was last asked."""
        for pid in pids:
            counts = Path(f"/proc/{pid}/io")
            if counts.exists():
                found = re.search(r"^write_bytes: (\d+)", counts.read_text(), re.MULTILINE)
                self._of_process[pid] = int(found[1])
        return sum(self._of_process.values())


@contextmanager
def own_disk(folder: Path) -> Iterator[Disk]:
    """Mount an empty disk at a new folder; it is gone after the block.

    The device is detached by the kernel with its last mount (mount(8), "loop"). Where that is not
    possible (no loop devices, no right to mount), the folder stays on the disk where it is.
    """
    folder.mkdir()
    image = folder.with_suffix(".img")
    try:
        why = _mount(image, folder)
        if why is not None:
            print(f"   no disk of its own for {folder.name}: {why}", flush=True)
        yield SharedDisk(folder) if why else LoopDisk(folder)
    finally:
        # Lazily: a process that still has a file open there does not keep it in sight.
        subprocess.run(("umount", "--lazy", folder), check=False, capture_output=True)
        image.unlink(missing_ok=True)


def _mount(image: Path, folder: Path) -> str | None:
    """Make a filesystem and mount it; returns why that was not possible.

    The image is written as a whole before: a block that is written for the first time would make
    the filesystem below write, too. Nothing is left to be initialised later, behind the figures.
    """
    try:
        _of("dd", "if=/dev/zero", f"of={image}", "bs=16M", f"count={IMAGE_MIB // 16}",
            "oflag=direct")  # fmt: skip
        _of("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
        _of("mount", "-o", "loop", image, folder)
    except FileNotFoundError as missing:
        return str(missing)
    except subprocess.CalledProcessError as failed:
        return failed.stderr.strip().partition("\n")[0]
    return None


def _of(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
