"""The clock of a simulation, which follows the virtual time of the event loop."""

from __future__ import annotations

import asyncio

from fractal_rm.domain.moment import Moment
from fractal_rm.domain.steady import ClockChange, ClockReading

BOOT = "virtual"


class VirtualClock:
    """Port `Clock`. Wall time begins at ``start_ms`` and advances with the time of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, start_ms: int) -> None:
        self._loop = loop
        self._start_ms = start_ms

    def now_ms(self) -> int:
        """Wall time in milliseconds since 1970, UTC."""
        return self._start_ms + round(self._loop.time() * 1000)

    def monotonic_s(self) -> float:
        """Seconds since the loop was created."""
        return self._loop.time()

    def steady_ms(self) -> int:
        """The same time as `now_ms`, because the wall clock of a simulation is never set."""
        return self.now_ms()

    def read(self) -> ClockReading:
        """Read all clocks of the machine. In a simulation, they show the same time."""
        now_ms = self.now_ms()
        return ClockReading(now_ms, now_ms, now_ms, now_ms)

    def detect_changes(self) -> ClockChange:
        """Return no change: the wall clock of a simulation is never set."""
        return ClockChange()

    def continue_after(self, latest_ms: int | None) -> None:
        """Do nothing: the journal of a simulation is empty when the loop is created."""

    async def save(self) -> None:
        """Do nothing: the clock is not used after the loop ends."""

    def moment(self) -> Moment:
        """The current moment, on a machine that booted when the loop was created."""
        return Moment(BOOT, round(self._loop.time() * 1000), self.now_ms())
