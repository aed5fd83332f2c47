"""Timers on the steady clock, which runs while the machine is suspended.

Timers of the event loop stop while the machine is suspended. `Timers` uses one of them, the loop
timer, for the timer that is due first. After a suspend, the loop timer is late. Therefore a node
also calls `fire_due` twice a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from heapq import heapify, heappop, heappush
from itertools import count
from math import ceil
from typing import TypeVar

from fractal_rm.engine.ports import Clock

T = TypeVar("T")
MAX_CANCELLED = 64  # up to this many cancelled timers may stay in the heap


class Timer:
    """Calls ``action`` once, at ``at_ms``, unless it is cancelled first."""

    __slots__ = ("_timers", "action", "at_ms", "cancelled", "fired")

    def __init__(self, timers: Timers, at_ms: int, action: Callable[[], object]) -> None:
        self._timers = timers
        self.at_ms = at_ms  # on the steady clock
        self.action: Callable[[], object] | None = action
        self.fired = self.cancelled = False

    def cancel(self) -> None:
        """Cancel the timer. Has no effect if the timer has fired or was cancelled."""
        if self.action is not None:
            self.action, self.cancelled = None, True
            self._timers.note_cancelled()

    def fire(self) -> None:
        """Call the action now, unless the timer has fired or was cancelled."""
        action, self.action = self.action, None
        if action is not None:
            self.fired = True
            action()


class Timers:
    """All timers of a node."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[int, int, Timer]] = []
        self._sequence = count()  # timers for the same moment fire in the order they were set
        self._cancelled = 0  # the number of cancelled timers in the heap
        self._loop_timer: asyncio.TimerHandle | None = None
        self._next: Timer | None = None  # the timer for which the loop timer is set

    def set(self, left_ms: float, action: Callable[[], object]) -> Timer:
        """Call ``action`` after ``left_ms``, including time in suspend. It must not raise."""
        now_ms = self._clock.steady_ms()
        timer = Timer(self, now_ms + ceil(left_ms), action)
        heappush(self._heap, (timer.at_ms, next(self._sequence), timer))
        if self._next is None or timer.at_ms < self._next.at_ms:
            self._wait_for(timer)
        elif self._next.at_ms <= now_ms:  # after a suspend, the loop timer is late
            asyncio.get_running_loop().call_soon(self.fire_due)
        return timer

    @property
    def pending(self) -> int:
        """The number of entries of the heap, including cancelled timers."""
        return len(self._heap)

    def now_ms(self) -> int:
        """The time on the steady clock."""
        return self._clock.steady_ms()

    async def sleep(self, left_ms: float) -> None:
        """Sleep until ``left_ms`` have passed on the steady clock."""
        finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.set(left_ms, lambda: finished.done() or finished.set_result(None))
        try:
            await finished
        finally:
            timer.cancel()

    async def within(self, left_ms: float, work: Awaitable[T]) -> T:
        """Await ``work``. If it takes longer than ``left_ms``, cancel it and raise TimeoutError.

        If ``left_ms`` is zero or less, ``work`` is cancelled before it starts.
        """
        task = asyncio.ensure_future(work)
        timer = self.set(left_ms, task.cancel)
        if left_ms <= 0:
            timer.fire()
        try:
            return await task
        except asyncio.CancelledError:
            if timer.fired:
                raise asyncio.TimeoutError from None
            raise
        finally:
            timer.cancel()

    def fire_due(self) -> None:
        """Fire every timer that is due."""
        now_ms = self._clock.steady_ms()
        while self._heap and (self._heap[0][2].action is None or self._heap[0][0] <= now_ms):
            timer = heappop(self._heap)[2]
            self._cancelled -= timer.cancelled
            timer.fire()
        self._wait_for(self._heap[0][2] if self._heap else None)

    def note_cancelled(self) -> None:
        """Count a cancelled timer. If most timers in the heap are cancelled, remove those."""
        self._cancelled += 1
        if self._cancelled > MAX_CANCELLED and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].action is not None]
            heapify(self._heap)
            self._cancelled = 0

    def _wait_for(self, timer: Timer | None) -> None:
        if timer is self._next and timer is not None:
            return
        if self._loop_timer is not None:
            self._loop_timer.cancel()
        self._loop_timer, self._next = None, timer
        if timer is not None:
            left_s = max(0, timer.at_ms - self.now_ms()) / 1000
            self._loop_timer = asyncio.get_running_loop().call_later(left_s, self._on_timer, timer)

    def _on_timer(self, timer: Timer) -> None:
        """Fire this timer and all others that are due. Called by the event loop."""
        self._loop_timer = self._next = None
        timer.fire()
        self.fire_due()
