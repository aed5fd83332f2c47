"""An event loop whose time jumps: when every task waits, the next timer's moment has come.

Ordinary asyncio code runs on it unchanged. An hour of pauses takes as long as what is done between
them, and two runs of the same program see the same moments.
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


class Stuck(FractalError):
    """Every task waits, and for nothing that time alone would bring."""

    code = "stuck"


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: what the loop would sleep through is added to ``now_s``."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> Any:
        """What is ready now. Raises Stuck where the loop would wait for ever."""
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Stuck("every task waits, and for no moment: nothing more can happen")
        if timeout > 0:
            self.now_s = _reached(self.now_s + timeout)
        return ready


def _reached(moment_s: float) -> float:
    """A moment at which asyncio sees that the timers for it are due.

    It looks whether they are before now plus the clock's resolution. After some months that sum is
    now itself, as numbers lie farther apart there, and the timer would be waited for for ever.
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
    """Run to the end under virtual time, as `asyncio.run` does under that of the machine.

    Raises what ``main`` raises, and Stuck. Tasks that it leaves are cancelled.
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
