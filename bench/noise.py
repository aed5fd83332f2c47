"""Measures the CPU time of other programs, which disturb a measurement."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# The fields after the name in /proc/PID/stat, proc_pid_stat(5): the process id of the parent; and
# the CPU time, user and system, of the process and of its children that have ended.
PARENT, CPU_TICKS = 1, slice(11, 15)
STEAL_FIELD = 8  # of the first line of /proc/stat: the time of other virtual machines, proc(5)
KTHREADD_PID = 2  # the parent of all kernel threads


def other_cpu_s() -> float:
    """Seconds of CPU time, since boot, of programs that do not belong to the measurement.

    These are other processes, with their children that have ended, and other virtual machines on
    the same processor.
    """
    parents, cpu_ticks = dict[int, int](), dict[int, int]()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # raised if the process has ended
            _, _, after_name = stat.read_text().rpartition(")")
            fields = after_name.split()
            pid = int(stat.parent.name)
            parents[pid], cpu_ticks[pid] = int(fields[PARENT]), sum(map(int, fields[CPU_TICKS]))
    others = sum(ticks for pid, ticks in cpu_ticks.items() if not _is_measured(pid, parents))
    steal = int(Path("/proc/stat").read_text().split(maxsplit=STEAL_FIELD + 1)[STEAL_FIELD])
    return (others + steal) / TICKS_PER_S


def _is_measured(pid: int, parents: dict[int, int]) -> bool:
    """Whether a process is this process, a descendant of it, or a kernel thread.

    Kernel threads count as measured, because they also work for the measured system.
    """
    while pid in parents:
        if pid in {os.getpid(), KTHREADD_PID}:
            return True
        pid = parents[pid]
    return False


@dataclass
class Noise:
    """Measures the CPU time of other programs since this object was created."""

    _start_s: float = field(default_factory=time.monotonic)
    _other_cpu_s: float = field(default_factory=other_cpu_s)

    def percent(self) -> float:
        """The share of the CPU time of all processors that other programs used, in percent."""
        available_s = (time.monotonic() - self._start_s) * (os.cpu_count() or 1)
        return max(0.0, 100 * (other_cpu_s() - self._other_cpu_s) / available_s)
