"""The thread that waits for the disk, and the way back to the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any


class WriterThread:
    """Does jobs one after the other. ``on_fault`` is called on the loop at the first that fails.

    After that no job is done.
    """

    def __init__(self, on_fault: Callable[[Exception], None]) -> None:
        self._on_fault = on_fault
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop

    @property
    def running(self) -> bool:
        """Whether it was started and not ended."""
        return self._thread is not None

    def start(self) -> None:
        """Begin; the loop that runs now is told what comes of jobs."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Wait until every job is done."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            thread.join()

    def put(self, job: Callable[[], None]) -> None:
        """Hand a job over."""
        self._jobs.put(job)

    def tell(self, callback: Callable[[], None]) -> None:
        """From the thread: have something called on the loop."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback)

    async def run(self, work: Callable[[], Any]) -> Any:
        """Do blocking work on the thread; raises what it raises."""
        done: asyncio.Future[Any] = self._loop.create_future()

        def settle(value: Any, error: BaseException | None) -> None:
            if done.cancelled():
                return
            if error is None:
                done.set_result(value)
            else:
                done.set_exception(error)

        def job() -> None:
            try:
                value = work()
            except Exception as caught:  # noqa: BLE001 - handed to who waits
                error = caught
                self.tell(lambda: settle(None, error))
            else:
                self.tell(lambda: settle(value, None))

        self.put(job)
        return await done

    def _work(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                job()
        except Exception as error:  # noqa: BLE001 - whatever it is, the node must hear of it
            fault = error
            self.tell(lambda: self._on_fault(fault))
