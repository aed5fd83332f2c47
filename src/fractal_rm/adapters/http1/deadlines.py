"""Time limits of calls: thousands are set in a second, and hardly one is ever reached.

A timer of the event loop for each costs more than the call's own bytes. Here a limit is a place in
a set, and one timer looks at the sets whose time has come, as long as there are any.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

TICK_S = 0.01  # a limit is reached so much too late at most


class Limited(Protocol):
    """What has a time limit."""

    def too_late(self) -> None:
        """It was reached."""
        ...


class Deadlines:
    """Tells who was set and not lifted when its time has come."""

    def __init__(self) -> None:
        self._due: dict[int, set[Limited]] = {}
        self._looked_at = 0
        self._timer: asyncio.TimerHandle | None = None

    def set(self, ends_s: float, limited: Limited, loop: asyncio.AbstractEventLoop) -> int:
        """Tell ``limited`` at ``ends_s`` of the loop's clock. Returns the place, for `lift`."""
        tick = int(ends_s / TICK_S) + 1
        if self._timer is None:
            self._looked_at = int(loop.time() / TICK_S)
            self._timer = loop.call_later(TICK_S, self._look, loop)
        tick = max(tick, self._looked_at + 1)
        due = self._due.get(tick)
        if due is None:
            due = self._due[tick] = set()
        due.add(limited)
        return tick

    def lift(self, tick: int, limited: Limited) -> None:
        """It has ended in time."""
        due = self._due.get(tick)
        if due is not None:
            due.discard(limited)
            if not due:
                del self._due[tick]

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = int(loop.time() / TICK_S)
        for tick in range(self._looked_at + 1, now + 1):
            for limited in self._due.pop(tick, ()):
                limited.too_late()
        self._looked_at = max(now, self._looked_at)
        self._timer = loop.call_later(TICK_S, self._look, loop) if self._due else None
