"""Makes a disk for each measured system: an ext4 filesystem in a file, behind a loop device.

The kernel counts the sectors written to the device. These sectors contain the data of
files, and the filesystem's own journal and tables. /proc/PID/io does not count this journal and
these tables. But it counts data twice that is overwritten in the page cache before it is written
to the disk.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

SECTOR_BYTES = 512  # the unit of /sys/block/*/stat on every device
SECTORS_WRITTEN = 6  # the index of this field of /sys/block/*/stat
IMAGE_MIB = 2048


class Disk(Protocol):
    """The disk on which a system stores its files."""

    folder: Path
    counted_as: str  # completes the words "bytes are counted as", for the notes of figures

    def written_bytes(self, *pids: int) -> int:
        """Bytes written so far. ``pids`` are the processes of the system."""
        ...


class LoopDisk:
    """A mounted loop device."""

    counted_as = "sectors of a loop device"

    def __init__(self, folder: Path) -> None:
        """``folder`` is the folder at which the filesystem is mounted."""
        self.folder = folder
        device = _output_of("findmnt", "--noheadings", "--output", "SOURCE", folder)
        self._stat = Path("/sys/block", Path(device).name, "stat")

    def written_bytes(self, *_: int) -> int:
        """The number of bytes written since the device was made. Flushes the page cache first."""
        _output_of("sync", "--file-system", self.folder)
        fields = self._stat.read_text().split()
        return int(fields[SECTORS_WRITTEN]) * SECTOR_BYTES


class SharedDisk:
    """A folder on the machine's own disk. Counts the bytes that /proc/PID/io has for the processes.

    If the page cache has large folios, a small write counts as a whole folio. This is far more than
    is written to the disk.
    """

    counted_as = "bytes of /proc/PID/io, because no loop device could be mounted"

    def __init__(self, folder: Path) -> None:
        """``folder`` is on the machine's own disk."""
        self.folder = folder
        self._bytes_by_pid: dict[int, int] = {}

    def written_bytes(self, *pids: int) -> int:
        """Bytes written so far. A process that has ended counts with its last known number."""
        for pid in pids:
            io_file = Path(f"/proc/{pid}/io")
            if io_file.exists():
                match = re.search(r"^write_bytes: (\d+)", io_file.read_text(), re.MULTILINE)
                self._bytes_by_pid[pid] = int(match[1])
        return sum(self._bytes_by_pid.values())


@contextmanager
def separate_disk(folder: Path) -> Iterator[Disk]:
    """Mount an empty disk at a new folder, until the end of the block.

    If mounting is not possible (no loop devices, no permission), the folder is on the machine's own
    disk. The loop device needs no cleanup: the kernel detaches it after umount (mount(8), "loop").
    """
    folder.mkdir()
    image = folder.with_suffix(".img")
    try:
        error = _mount(image, folder)
        if error is not None:
            print(f"   no loop device for {folder.name}: {error}", flush=True)
        yield SharedDisk(folder) if error else LoopDisk(folder)
    finally:
        # --lazy, because a process may still have a file open on the disk.
        subprocess.run(("umount", "--lazy", folder), check=False, capture_output=True)
        image.unlink(missing_ok=True)


def _mount(image: Path, folder: Path) -> str | None:
    """Make a filesystem in the file ``image`` and mount it. Returns the error, or None.

    The whole file is written first, and mkfs initializes all tables at once. Otherwise blocks would
    be allocated, and tables initialized, during a measurement.
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
