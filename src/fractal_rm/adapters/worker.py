"""Runs blocking work, such as disk access, in a thread, so that the event loop does not block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any


class Worker:
    """Runs blocking functions in one thread, in the order in which they were submitted."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop

    def start(self) -> None:
        """Start the thread. The futures of `run` belong to the current event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run_jobs, name=self._name, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Wait until all submitted functions have returned, and end the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            thread.join()

    def run(self, work: Callable[[], Any]) -> asyncio.Future[Any]:
        """Submit a function; return a future of its result."""
        done: asyncio.Future[Any] = self._loop.create_future()

        def job() -> None:
            try:
                value, error = work(), None
            except Exception as caught:  # noqa: BLE001 - passed to the future
                value, error = None, caught
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(_set_result, done, value, error)

        self._jobs.put(job)
        return done

    def _run_jobs(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _set_result(done: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
    if done.cancelled():
        return
    if error is None:
        done.set_result(value)
    else:
        done.set_exception(error)
