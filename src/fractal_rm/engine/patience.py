"""How much longer runs in line are worth beginning."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fractal_rm.engine.ports import Clock


class Patience:
    """Keeps the moment at which each run becomes stale, and tells of it without being asked.

    The moment is one of the clock that does not jump; the event loop only says when to look.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until_s: dict[str, float] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def watch(self, run_id: str, left_ms: int, stale: Callable[[], None]) -> None:
        """Call ``stale`` once after ``left_ms``, unless the run is let off before."""
        self._until_s[run_id] = self._clock.monotonic_s() + left_ms / 1000
        self._look_again(run_id, stale)

    def let_off(self, run_id: str) -> bool:
        """Watch it no longer. Returns whether its time was over."""
        until_s = self._until_s.pop(run_id, None)
        if until_s is None:
            return False
        self._timers.pop(run_id).cancel()
        return until_s <= self._clock.monotonic_s()

    def close(self) -> None:
        """Tell of nothing any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._until_s.clear()

    def _look_again(self, run_id: str, stale: Callable[[], None]) -> None:
        left_s = max(0.0, self._until_s[run_id] - self._clock.monotonic_s())
        loop = asyncio.get_running_loop()
        self._timers[run_id] = loop.call_later(left_s, self._look, run_id, stale)

    def _look(self, run_id: str, stale: Callable[[], None]) -> None:
        if self._until_s[run_id] > self._clock.monotonic_s():
            self._look_again(run_id, stale)  # timers of a loop may be early
        else:
            _ = self.let_off(run_id)
            stale()
