"""A clock that goes with the virtual loop, and chance that is the same each time."""

from __future__ import annotations

import asyncio
import hashlib

from fractal_rm.domain.moment import Moment
from fractal_rm.domain.steady import Look, Reading

BOOT = "virtual"
MIDDLE = 0.5  # a pause with jitter is as long as on average


class VirtualClock:
    """Port `Clock`: wall time begins at ``start_ms`` and moves with the loop's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, start_ms: int) -> None:
        self._loop = loop
        self._start_ms = start_ms

    def now_ms(self) -> int:
        """Milliseconds since 1970, UTC."""
        return self._start_ms + round(self._loop.time() * 1000)

    def monotonic_s(self) -> float:
        """Seconds since the loop was made."""
        return self._loop.time()

    def steady_ms(self) -> int:
        """As the wall clock, which nobody sets here."""
        return self.now_ms()

    def read(self) -> Reading:
        """The same moment on clocks that agree."""
        now_ms = self.now_ms()
        return Reading(now_ms, now_ms, now_ms, now_ms)

    def look(self) -> Look:
        """Nothing is done to it."""
        return Look()

    def go_on_after(self, latest_ms: int | None) -> None:
        """No journal outlives the loop."""

    async def keep(self) -> None:
        """Nothing of it outlives the loop."""

    def moment(self) -> Moment:
        """Now, of a machine that has been booted once, when the loop was made."""
        return Moment(BOOT, round(self._loop.time() * 1000), self.now_ms())


class EvenRandom:
    """Port `Random` without chance: each fraction is the middle, tokens are drawn from a seed."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._drawn = 0

    def fraction(self) -> float:
        """Always the middle."""
        return MIDDLE

    def token(self, size: int) -> bytes:
        """``size`` bytes: the next ones of the seed's sequence."""
        self._drawn += 1
        return hashlib.shake_128(f"{self._seed}:{self._drawn}".encode()).digest(size)
