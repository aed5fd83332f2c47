"""An event loop with virtual time: when every task waits, time jumps to the next timer.

Ordinary asyncio code runs on it unchanged. Pauses take no real time, and a program sees the same
times whenever it is run.
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
    """Every task waits, and no timer is set that would end a wait."""

    code = "stuck"


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: the time that the loop would wait is added to ``now_s``."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        """Return what is ready now. Raises Deadlocked if the loop would wait forever."""
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Deadlocked("every task waits, and no timer is set: nothing more can happen")
        if timeout > 0:
            self.now_s = _reached(self.now_s + timeout)
        return ready


def _reached(moment_s: float) -> float:
    """The moment, or one just after it, at which asyncio runs the timers that are due.

    asyncio runs the timers before now plus the clock's resolution. After some months of virtual
    time, floats are too coarse: the sum would equal now, and the timer would never run.
    """
    if moment_s + _RESOLUTION_S > moment_s:
        return moment_s
    return math.nextafter(moment_s, math.inf)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """``time()`` is in seconds from 0, when the loop was made."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds."""
        return self._jumping.now_s


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end under virtual time, like `asyncio.run`.

    Raises what ``main`` raises, and Deadlocked. Tasks that are left over are cancelled.
    """
    with closing(VirtualTimeLoop()) as loop:
        try:
            return loop.run_until_complete(main)
        finally:
            loop.run_until_complete(_cancelled(asyncio.all_tasks(loop)))
            loop.run_until_complete(loop.shutdown_asyncgens())


async def _cancelled(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
