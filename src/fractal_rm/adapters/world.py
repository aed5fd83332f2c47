"""The clock and the chance of the machine."""

from __future__ import annotations

import os
import random
import time


class SystemClock:
    """Port `Clock`: the only place that reads a clock."""

    def now_ms(self) -> int:
        """Wall clock: milliseconds since 1970, UTC."""
        return time.time_ns() // 1_000_000  # noqa: TID251 - this is the clock

    def monotonic_s(self) -> float:
        """Seconds since some moment; never jumps."""
        return time.monotonic()  # noqa: TID251 - this is the clock


class SystemRandom:
    """Port `Random`: the only place that draws."""

    def fraction(self) -> float:
        """From 0 up to, not including, 1."""
        return random.random()  # noqa: TID251, S311 - this is the source, and it is jitter

    def token(self, size: int) -> bytes:
        """``size`` random bytes."""
        return os.urandom(size)
