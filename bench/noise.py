"""What others take of this machine meanwhile: a round that they have touched is measured again."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
STEAL = 8  # proc(5), /proc/stat: the field of the line of all processors
KERNEL = 2  # the parent of the kernel's threads: they work for what is measured, too


def others_s() -> float:
    """Seconds of CPU of other processes, those that they have waited for included, and of other
    machines on this processor.
    """
    parents, took = dict[int, int](), dict[int, int]()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            fields = stat.read_text().rpartition(")")[2].split()
            pid = int(stat.parent.name)
            parents[pid], took[pid] = int(fields[1]), sum(map(int, fields[11:15]))
    foreign = sum(ticks for pid, ticks in took.items() if not _ours(pid, parents))
    steal = int(Path("/proc/stat").read_text().split(maxsplit=STEAL + 1)[STEAL])
    return (foreign + steal) / TICK


def _ours(pid: int, parents: dict[int, int]) -> bool:
    """Whether a process is a child of this one, or a thread of the kernel."""
    while pid in parents:
        if pid in {os.getpid(), KERNEL}:
            return True
        pid = parents[pid]
    return False


@dataclass
class Noise:
    """Begins where it is made."""

    _began: float = field(default_factory=time.monotonic)
    _others_s: float = field(default_factory=others_s)

    def percent(self) -> float:
        """Of all processors, so far, what did not go to this bench and what it has started."""
        took = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        return max(0.0, 100 * (others_s() - self._others_s) / took)
