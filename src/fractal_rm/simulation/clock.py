"""A clock that follows the time of the virtual loop."""

from __future__ import annotations

import asyncio

from fractal_rm.domain.moment import Moment
from fractal_rm.domain.steady import ClockChange, ClockReading

BOOT = "virtual"


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
        """The same as the wall clock, which is never set here."""
        return self.now_ms()

    def read(self) -> ClockReading:
        """Now; all clocks agree."""
        now_ms = self.now_ms()
        return ClockReading(now_ms, now_ms, now_ms, now_ms)

    def detect_changes(self) -> ClockChange:
        """Nothing has changed: the clock is never set."""
        return ClockChange()

    def continue_after(self, latest_ms: int | None) -> None:
        """Nothing to do: no journal outlives the loop."""

    async def save(self) -> None:
        """Nothing to keep: the clock ends with the loop."""

    def moment(self) -> Moment:
        """Now, on a machine that was booted when the loop was made."""
        return Moment(BOOT, round(self._loop.time() * 1000), self.now_ms())
