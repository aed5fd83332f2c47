"""An event loop with virtual time: when all tasks wait, time jumps to the next timer.

Ordinary asyncio code runs on this loop unchanged. Pauses take no real time, and each run of a
program sees the same times.
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
    """All tasks wait, and no timer is set that could end a wait."""

    code = "stuck"


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that does not wait, but adds the time of the wait to ``now_s``."""

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
    """The moment, or the next float after it, so that asyncio runs the timers of that moment.

    asyncio runs the timers that are due before now plus the resolution of the clock. After some
    months of virtual time, this sum is rounded to now, and the timers would never run.
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

    Raises the exceptions of ``main``, and Deadlocked. Tasks that have not ended are cancelled.
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
