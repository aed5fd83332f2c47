"""A thread that waits for the disk, so that the event loop need not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any

from fractal_rm.adapters.clock import NodeClock

SHORT_S = 0.002
SHORT_IN_A_ROW = 100


class Worker:
    """Does blocking work, one piece after the other."""

    def __init__(self, name: str, monotonic_s: Callable[[], float] = NodeClock.monotonic_s) -> None:
        self._name = name
        self._monotonic_s = monotonic_s
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._under_way = 0
        self._short_in_a_row = 0  # of what was given to `run_short`
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        """Begin; results go to the loop that runs now."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Wait until all that was handed over is done."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            thread.join()

    def run(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        """Have work done; returns a future of what it returns or raises."""
        done: asyncio.Future[Any] = self._loop.create_future()
        self._under_way += 1

        def job() -> None:
            try:
                value, error = work(), None
            except Exception as caught:  # noqa: BLE001 - handed to who waits
                value, error = None, caught
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._settle, done, value, error)

        self._jobs.put(job)
        return done

    async def run_short(self, work: Callable[[], Any]) -> Any:
        """Have work done of which each piece mostly takes as long as the one before.

        To hand a piece over and to be woken takes more than a short piece does. So it is done at
        once where the last ones were short and nothing else is under way: one that is long then
        holds up the event loop, once, and those that follow are the thread's.
        """
        if self._short_in_a_row >= SHORT_IN_A_ROW and not self._under_way:
            return self._timed(work)
        return await self.run(partial(self._timed, work))

    def _timed(self, work: Callable[[], Any]) -> Any:
        began_s = self._monotonic_s()
        value = work()
        is_short = self._monotonic_s() - began_s < SHORT_S
        self._short_in_a_row = self._short_in_a_row + 1 if is_short else 0
        return value

    def _settle(self, done: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
        self._under_way -= 1
        if done.cancelled():
            return
        if error is None:
            done.set_result(value)
        else:
            done.set_exception(error)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
