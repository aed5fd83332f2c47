"""Waiting on the steady clock: an event loop's own timers stand still while the machine sleeps.

The loop has one timer, for the alarm that is next. It may be late after a suspend, and never early,
so what it says is believed; `look`, which a node calls twice a second, rings what it was late for.
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
FEW = 64  # so many cancelled alarms are not worth looking for


class Alarm:
    """Rings once, unless it is cancelled before."""

    __slots__ = ("_alarms", "at_ms", "cancelled", "rang", "ring")

    def __init__(self, alarms: Alarms, at_ms: int, ring: Callable[[], object]) -> None:
        self._alarms = alarms
        self.at_ms = at_ms  # on the steady clock
        self.ring: Callable[[], object] | None = ring
        self.rang = self.cancelled = False

    def cancel(self) -> None:
        """Do not ring. Legal after it rang, and twice."""
        if self.ring is not None:
            self.ring, self.cancelled = None, True
            self._alarms.note_cancelled()


class Alarms:
    """Every alarm of a node."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[int, int, Alarm]] = []
        self._order = count()  # alarms of one moment ring in the order in which they were set
        self._cancelled = 0  # so many of those in the heap
        self._timer: asyncio.TimerHandle | None = None
        self._next: Alarm | None = None  # the one that the loop's timer is for

    def set(self, left_ms: float, ring: Callable[[], object]) -> Alarm:
        """Call ``ring`` in so many milliseconds, suspended ones too. It must not raise."""
        now_ms = self._clock.steady_ms()
        alarm = Alarm(self, now_ms + ceil(left_ms), ring)
        heappush(self._heap, (alarm.at_ms, next(self._order), alarm))
        if self._next is None or alarm.at_ms < self._next.at_ms:
            self._wait_for(alarm)
        elif self._next.at_ms <= now_ms:  # the loop is late for it, and would be for this one
            asyncio.get_running_loop().call_soon(self.look)
        return alarm

    def now_ms(self) -> int:
        """The steady clock."""
        return self._clock.steady_ms()

    async def sleep(self, left_ms: float) -> None:
        """Return in so many milliseconds."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        alarm = self.set(left_ms, lambda: over.done() or over.set_result(None))
        try:
            await over
        finally:
            alarm.cancel()

    async def within(self, left_ms: float, work: Awaitable[T]) -> T:
        """Come to what ``work`` does. Raises TimeoutError where it took longer, and is cancelled.

        Without any time left it is not even begun.
        """
        task = asyncio.ensure_future(work)
        alarm = self.set(left_ms, task.cancel)
        if left_ms <= 0:
            _ring(alarm)
        try:
            return await task
        except asyncio.CancelledError:
            if alarm.rang:
                raise asyncio.TimeoutError from None
            raise
        finally:
            alarm.cancel()

    def look(self) -> None:
        """Ring every alarm whose time has come."""
        now_ms = self._clock.steady_ms()
        while self._heap and (self._heap[0][2].ring is None or self._heap[0][0] <= now_ms):
            alarm = heappop(self._heap)[2]
            self._cancelled -= alarm.cancelled
            _ring(alarm)
        self._wait_for(self._heap[0][2] if self._heap else None)

    def note_cancelled(self) -> None:
        """One in the heap will not ring. Those are swept out when they are the most."""
        self._cancelled += 1
        if self._cancelled > FEW and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].ring is not None]
            heapify(self._heap)
            self._cancelled = 0

    def _wait_for(self, alarm: Alarm | None) -> None:
        if alarm is self._next and alarm is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._next = None, alarm
        if alarm is not None:
            left_s = max(0, alarm.at_ms - self.now_ms()) / 1000
            self._timer = asyncio.get_running_loop().call_later(left_s, self._come, alarm)

    def _come(self, alarm: Alarm) -> None:
        """The loop has waited for it."""
        self._timer = self._next = None
        _ring(alarm)
        self.look()


def _ring(alarm: Alarm) -> None:
    ring, alarm.ring = alarm.ring, None
    if ring is not None:
        alarm.rang = True
        ring()
