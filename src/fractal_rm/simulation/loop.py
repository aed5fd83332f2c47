"""An event loop with virtual time: when all tasks wait, the time jumps to the next timer.

Ordinary asyncio code runs on this loop unchanged. Pauses take no real time. If a program is
repeated, it sees the same times again.
"""

from __future__ import annotations

import asyncio
import math
import selectors
import time
from collections.abc import Coroutine
from contextlib import closing
from typing import Any, TypeVar

from fractal_rm.domain.errors import FractalError

T = TypeVar("T")
_RESOLUTION_S = time.get_clock_info("monotonic").resolution


class Deadlocked(FractalError):
    """All tasks wait, and no timer is set. So no task can ever continue."""

    code = "stuck"


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that does not wait, but adds the timeout to ``now_s``."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        """Return the events that are ready. Raises Deadlocked if the loop would wait forever."""
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Deadlocked("all tasks wait, and no timer is set: nothing more can happen")
        if timeout > 0:
            self.now_s = _timer_moment(self.now_s + timeout)
        return ready


def _timer_moment(moment_s: float) -> float:
    """Return the moment to which to set the time, so that asyncio runs the timers of ``moment_s``.

    asyncio runs a timer if its moment is before the sum of the time and the resolution of the
    clock. After some months of virtual time, this sum is rounded to the time itself, and the timer
    would never run. Then the next greater float is returned.
    """
    if moment_s + _RESOLUTION_S > moment_s:
        return moment_s
    return math.nextafter(moment_s, math.inf)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop with virtual time. `time` is 0 when the loop is created."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """The virtual time in seconds."""
        return self._jumping.now_s


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end in virtual time, like `asyncio.run`.

    At the end, all other tasks are cancelled. Raises the exceptions of ``main``, and Deadlocked.
    """
    with closing(VirtualTimeLoop()) as loop:
        try:
            return loop.run_until_complete(main)
        finally:
            loop.run_until_complete(_cancel(asyncio.all_tasks(loop)))
            loop.run_until_complete(loop.shutdown_asyncgens())


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
