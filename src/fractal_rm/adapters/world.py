"""The clock and the chance of the machine, and how many files it allows."""

from __future__ import annotations

import os
import random
import resource
import sys
import time
import uuid
from pathlib import Path

from fractal_rm.domain.moment import Moment

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SystemClock:
    """Port `Clock`: the only place that reads a clock."""

    def __init__(self) -> None:
        self._boot = _boot_id()

    def now_ms(self) -> int:
        """Wall clock: milliseconds since 1970, UTC."""
        return time.time_ns() // 1_000_000  # noqa: TID251 - this is the clock

    # Seconds since some moment; never jumps.
    monotonic_s = staticmethod(time.monotonic)  # noqa: TID251 - this is the clock

    def moment(self) -> Moment:
        """Now on the clock since boot, which counts suspended time too, and on the wall."""
        since_boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return Moment(self._boot, since_boot_ns // 1_000_000, self.now_ms())


def _boot_id() -> str:
    """The kernel's name for this boot. Where it gives none, this process counts as one."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return str(uuid.uuid4())


_DRAWN_AT_ONCE = 4096  # a system call for each run id would cost as much as the id


class SystemRandom:
    """Port `Random`: the only place that draws."""

    def __init__(self) -> None:
        self._drawn = b""
        self._at = 0

    def fraction(self) -> float:
        """From 0 up to, not including, 1."""
        return random.random()  # noqa: TID251, S311 - this is the source, and it is jitter

    def token(self, size: int) -> bytes:
        """``size`` random bytes."""
        if self._at + size > len(self._drawn):
            self._drawn, self._at = os.urandom(max(size, _DRAWN_AT_ONCE)), 0
        self._at += size
        return self._drawn[self._at - size : self._at]


def raise_open_files() -> int:
    """Take all the open files that this process may have; it is begun with leave for 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return sys.maxsize if most == resource.RLIM_INFINITY else most
