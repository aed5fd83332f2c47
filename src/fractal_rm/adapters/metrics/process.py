"""What the kernel says about this process."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import NamedTuple

_SELF = Path("/proc/self")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ProcessNumbers(NamedTuple):
    """CPU time in seconds, memory in bytes, and file descriptors."""

    cpu_s: float
    memory_bytes: int
    open_files: int
    max_files: int


def read_process() -> ProcessNumbers:
    """Read the numbers of this process. Blocks for up to a millisecond. Raises OSError."""
    # The name of the program is in parentheses, and may contain spaces.
    fields = (_SELF / "stat").read_text().rpartition(")")[2].split()
    user_ticks, system_ticks, pages = int(fields[11]), int(fields[12]), int(fields[21])
    return ProcessNumbers(
        (user_ticks + system_ticks) / _TICKS_PER_S,
        pages * _PAGE_BYTES,
        sum(1 for _ in (_SELF / "fd").iterdir()) - 1,  # without that of the listing
        resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )
