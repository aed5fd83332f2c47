"""A disk for each measured system: an ext4 filesystem in a file, on a loop device of its own.

The sectors written to the device include data, the filesystem's own journal and its tables.
/proc/PID/io leaves out the journal and the tables, and counts data that is overwritten in the page
cache.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

SECTOR_BYTES = 512  # the unit of /sys/block/*/stat on every device
IMAGE_MIB = 2048


class Disk(Protocol):
    """The disk on which a system keeps its files."""

    folder: Path
    counts: str  # what `written` counts, for the table

    def written(self, *pids: int) -> int:
        """Bytes written so far. Data in the page cache is flushed first."""
        ...


class LoopDisk:
    """A mounted loop device."""

    counts = "sectors of its device"

    def __init__(self, folder: Path) -> None:
        """``folder``: where the filesystem is mounted."""
        self.folder = folder
        device = _output_of("findmnt", "--noheadings", "--output", "SOURCE", folder)
        self._stat = Path("/sys/block", Path(device).name, "stat")

    def written(self, *_: int) -> int:
        """Sectors written since the device was made, in bytes."""
        _output_of("sync", "--file-system", self.folder)
        return int(self._stat.read_text().split()[6]) * SECTOR_BYTES


class SharedDisk:
    """The machine's own disk: counts the bytes that /proc/PID/io attributes to the processes.

    Where the page cache has large folios, a small write counts as the whole folio: far more than
    is written to the disk.
    """

    counts = "of /proc/PID/io: no loop devices here"

    def __init__(self, folder: Path) -> None:
        """``folder`` is on the machine's own disk."""
        self.folder = folder
        self._of_process: dict[int, int] = {}

    def written(self, *pids: int) -> int:
        """Bytes so far; a process that has ended counts with its last known number."""
        for pid in pids:
            counts = Path(f"/proc/{pid}/io")
            if counts.exists():
                found = re.search(r"^write_bytes: (\d+)", counts.read_text(), re.MULTILINE)
                self._of_process[pid] = int(found[1])
        return sum(self._of_process.values())


@contextmanager
def own_disk(folder: Path) -> Iterator[Disk]:
    """Mount an empty disk at a new folder, until the end of the block.

    The kernel detaches the device with its last mount (mount(8), "loop"). Where mounting is not
    possible (no loop devices, no permission), the folder is on the machine's own disk.
    """
    folder.mkdir()
    image = folder.with_suffix(".img")
    try:
        why = _mount(image, folder)
        if why is not None:
            print(f"   no disk of its own for {folder.name}: {why}", flush=True)
        yield SharedDisk(folder) if why else LoopDisk(folder)
    finally:
        # Lazily, as a process may still have a file open there.
        subprocess.run(("umount", "--lazy", folder), check=False, capture_output=True)
        image.unlink(missing_ok=True)


def _mount(image: Path, folder: Path) -> str | None:
    """Make a filesystem and mount it; returns why that was not possible.

    The whole image is written first: otherwise the filesystem that has the image would allocate
    blocks during a measurement. For the same reason, mkfs initialises all tables at once.
    """
    try:
        _output_of("dd", "if=/dev/zero", f"of={image}", "bs=16M", f"count={IMAGE_MIB // 16}",
            "oflag=direct")  # fmt: skip
        _output_of("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
        _output_of("mount", "-o", "loop", image, folder)
    except FileNotFoundError as missing:
        return str(missing)
    except subprocess.CalledProcessError as failed:
        return failed.stderr.strip().partition("\n")[0]
    return None


def _output_of(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
