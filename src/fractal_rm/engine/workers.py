"""The tasks of the engine. They are started one by one, and cancelled together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from fractal_rm.engine.ports import Telemetry


class Workers:
    """Holds each task until it ends, and logs the exception of a task that fails."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._tasks: set[asyncio.Task[None]] = set()

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
        if not task.cancelled() and (error := task.exception()) is not None:
            self._telemetry.problem("task_failed", error=repr(error), exc_info=error)
