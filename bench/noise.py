"""Measures the CPU time that other programs take. A round that they disturb is measured again."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
STEAL = 8  # proc(5), /proc/stat: the field of the line of all processors
KERNEL = 2  # the parent of the kernel's threads, which also work for the measured system


def other_cpu_s() -> float:
    """Seconds of CPU time that other processes and other machines took on this processor.

    A process includes its children that have ended.
    """
    parents, took = dict[int, int](), dict[int, int]()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process has ended
            fields = stat.read_text().rpartition(")")[2].split()
            pid = int(stat.parent.name)
            parents[pid], took[pid] = int(fields[1]), sum(map(int, fields[11:15]))
    foreign = sum(ticks for pid, ticks in took.items() if not _is_ours(pid, parents))
    steal = int(Path("/proc/stat").read_text().split(maxsplit=STEAL + 1)[STEAL])
    return (foreign + steal) / TICK


def _is_ours(pid: int, parents: dict[int, int]) -> bool:
    """Whether a process is a child of this one, or a thread of the kernel."""
    while pid in parents:
        if pid in {os.getpid(), KERNEL}:
            return True
        pid = parents[pid]
    return False


@dataclass
class Noise:
    """The CPU time of other programs since this object was made."""

    _began: float = field(default_factory=time.monotonic)
    _other_cpu_s: float = field(default_factory=other_cpu_s)

    def percent(self) -> float:
        """The share of all processors that went to other programs."""
        took = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        return max(0.0, 100 * (other_cpu_s() - self._other_cpu_s) / took)
