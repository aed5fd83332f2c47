"""The tasks of the engine. They are started one by one, and cancelled together."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import Telemetry


class Worker:
    """A task that executes one run after the other. ``run`` is the run that it executes now."""

    __slots__ = ("_cancels", "_cut", "_task", "run")

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task
        self._cut: Run | None = None  # the run whose work was interrupted
        self._cancels = 0  # how often `cut` has cancelled the task since `took_cut`
        self.run: Run | None = None

    def cut(self) -> None:
        """Interrupt the work on the current run: the task gets a CancelledError."""
        self._cut = self.run
        self._cancels += 1
        self._task.cancel()

    def took_cut(self) -> bool:
        """Whether a CancelledError only interrupts the current run, and does not end the task."""
        is_cut = self._cut is not None and self._cut is self.run
        cancels, self._cut, self._cancels = self._cancels, None, 0
        if sys.version_info >= (3, 11):
            for _ in range(cancels):
                self._task.uncancel()
            return is_cut and not self._task.cancelling()  # otherwise, the task is to end, too
        return is_cut


class Workers:
    """Holds each task until it ends, and logs the exception of a task that fails."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._tasks: set[asyncio.Task[None]] = set()
        self._workers: dict[asyncio.Task[None], Worker] = {}

    def begin_work(self) -> Worker:
        """The worker of the current task, which `start` has started."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - called by a task
        worker = self._workers[task] = Worker(task)
        return worker

    def worker_of(self, run: Run) -> Worker | None:
        """The worker that executes a run now, or None."""
        return next((each for each in self._workers.values() if each.run is run), None)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine as a task."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def cancel(self) -> None:
        """Cancel all tasks, and wait until they have ended."""
        while self._tasks:
            self.kill()
            # Cancel again, as wait_for may swallow a cancellation (Python before 3.12).
            await asyncio.wait(self._tasks, timeout=0.1)

    def kill(self) -> None:
        """Cancel all tasks without waiting for them."""
        for task in list(self._tasks):
            task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._workers.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._telemetry.problem("task_failed", error=repr(error), exc_info=error)
