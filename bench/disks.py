"""Makes a disk for each measured system: an ext4 filesystem in a file, behind a loop device.

The kernel counts the sectors written to the device. They include data, the filesystem's own journal
and its tables. /proc/PID/io does not count the journal and the tables. But it counts data that is
overwritten in the page cache before it is written to the disk.
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
    """The disk on which a system stores its files."""

    folder: Path
    how_counted: str  # how the written bytes are counted, for the table

    def written_bytes(self, *pids: int) -> int:
        """Bytes written so far. ``pids`` are the processes of the system."""
        ...


class LoopDisk:
    """A mounted loop device."""

    how_counted = "sectors of a loop device"

    def __init__(self, folder: Path) -> None:
        """``folder``: where the filesystem is mounted."""
        self.folder = folder
        device = _output_of("findmnt", "--noheadings", "--output", "SOURCE", folder)
        self._stat = Path("/sys/block", Path(device).name, "stat")

    def written_bytes(self, *_: int) -> int:
        """Sectors written since the device was made, in bytes. Flushes the page cache first."""
        _output_of("sync", "--file-system", self.folder)
        return int(self._stat.read_text().split()[6]) * SECTOR_BYTES


class SharedDisk:
    """The machine's own disk: counts the bytes that /proc/PID/io attributes to the processes.

    If the page cache has large folios, a small write counts as a whole folio. This is far more than
    is written to the disk.
    """

    how_counted = "bytes of /proc/PID/io, as no loop device could be mounted"

    def __init__(self, folder: Path) -> None:
        """``folder`` is on the machine's own disk."""
        self.folder = folder
        self._bytes_by_pid: dict[int, int] = {}

    def written_bytes(self, *pids: int) -> int:
        """Bytes written so far. For a process that has ended, the last known number is counted."""
        for pid in pids:
            io_file = Path(f"/proc/{pid}/io")
            if io_file.exists():
                found = re.search(r"^write_bytes: (\d+)", io_file.read_text(), re.MULTILINE)
                self._bytes_by_pid[pid] = int(found[1])
        return sum(self._bytes_by_pid.values())


@contextmanager
def own_disk(folder: Path) -> Iterator[Disk]:
    """Mount an empty disk at a new folder, until the end of the block.

    The kernel detaches the loop device after umount (mount(8), "loop"). If mounting is not possible
    (no loop devices, no permission), the folder is on the machine's own disk.
    """
    folder.mkdir()
    image = folder.with_suffix(".img")
    try:
        error = _mount(image, folder)
        if error is not None:
            print(f"   no loop device for {folder.name}: {error}", flush=True)
        yield SharedDisk(folder) if error else LoopDisk(folder)
    finally:
        # --lazy: a process may still have a file open on the disk.
        subprocess.run(("umount", "--lazy", folder), check=False, capture_output=True)
        image.unlink(missing_ok=True)


def _mount(image: Path, folder: Path) -> str | None:
    """Make a filesystem in the file ``image`` and mount it. Returns the error, or None.

    The whole file is written first: otherwise its blocks would be allocated during a measurement.
    For the same reason, mkfs initialises all tables at once.
    """
    try:
        _output_of("dd", "if=/dev/zero", f"of={image}", "bs=16M", f"count={IMAGE_MIB // 16}",
            "oflag=direct")  # fmt: skip
        _output_of("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
        _output_of("mount", "-o", "loop", image, folder)
    except FileNotFoundError as error:
        return str(error)
    except subprocess.CalledProcessError as error:
        return error.stderr.strip().partition("\n")[0]
    return None


def _output_of(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
