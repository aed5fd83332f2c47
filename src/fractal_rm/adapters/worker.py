"""A thread that waits for the disk, so that the event loop need not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any


class Worker:
    """Does blocking work, one piece after the other."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
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

        def job() -> None:
            try:
                value, error = work(), None
            except Exception as caught:  # noqa: BLE001 - handed to who waits
                value, error = None, caught
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(_settle, done, value, error)

        self._jobs.put(job)
        return done

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _settle(done: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(value)
    else:
        done.set_exception(error)
