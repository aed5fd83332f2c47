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
    """

    __slots__ = ("_ends_s", "_fires_s", "_on_timeout", "_timer")

    def __init__(self, on_timeout: Callable[[], None]) -> None:
        self._on_timeout = on_timeout
        self._ends_s = 0.0  # when the current call times out
        self._fires_s = float("inf")
        self._timer: asyncio.TimerHandle | None = None

    def begin_call(self, ends_s: float, loop: asyncio.AbstractEventLoop) -> None:
        """Begin a call that times out at ``ends_s`` on the loop's clock."""
        self._ends_s = ends_s
        if ends_s < self._fires_s:
            self._set(loop)

    def cancel(self) -> None:
        """Cancel the timer. Call this when no further call will begin."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, loop: asyncio.AbstractEventLoop) -> None:
        self.cancel()
        self._fires_s = self._ends_s
        self._timer = loop.call_at(self._fires_s, self._fire, loop)

    def _fire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, self._fires_s = None, float("inf")
        if loop.time() < self._ends_s:
            self._set(loop)
        else:
            self._on_timeout()
