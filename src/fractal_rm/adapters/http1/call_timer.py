"""The time limit of the calls on a connection.

There are thousands of calls a second, and few time out. So a connection has one timer for all its
calls: when the timer fires, it checks whether the current call has timed out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class CallTimer:
    """Calls ``on_timeout`` when the current call has reached its time limit.

    The timer does not know when a call ends. So ``on_timeout`` may be called when there is no call.
    A call begins by setting ``ends_s``, its end on the loop's clock, and then calling `set` if the
    call ends before ``fires_s``. Most calls need no `set`.
    """

    __slots__ = ("_on_timeout", "_timer", "ends_s", "fires_s")

    def __init__(self, on_timeout: Callable[[], None]) -> None:
        self._on_timeout = on_timeout
        self.ends_s = 0.0  # when the current call times out
        self.fires_s = float("inf")  # when the timer fires
        self._timer: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        """Cancel the timer. Call this when no further call will begin."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def set(self, loop: asyncio.AbstractEventLoop) -> None:
        """Fire at the end of the current call."""
        self.cancel()
        self.fires_s = self.ends_s
        self._timer = loop.call_at(self.fires_s, self._fire, loop)

    def _fire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, self.fires_s = None, float("inf")
        if loop.time() < self.ends_s:
            self.set(loop)
        else:
            self._on_timeout()
