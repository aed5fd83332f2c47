"""Pass runs that hold a slot to the workers that wait for a run."""

from __future__ import annotations

import asyncio
from collections import deque

from fractal_rm.domain.run import Run

MAX_IDLE_WORKERS = 16  # a worker ends if this many others are idle


class Ready:
    """Passes each run to the worker that became idle last, whose memory is still cached."""

    def __init__(self) -> None:
        self._runs: deque[Run] = deque()
        self._idle: list[asyncio.Future[Run]] = []
        self._missing_count = 0  # runs that were put while no worker was idle
        self._worker_needed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def put(self, run: Run) -> None:
        """Pass a run to an idle worker, or keep it for `take`."""
        while self._idle:
            worker = self._idle.pop()
            if not worker.cancelled():
                worker.set_result(run)
                return
        self._runs.append(run)
        self._missing_count += 1
        self._worker_needed.set()

    def take(self) -> Run | None:
        """Return a run that `put` kept; None: there is none."""
        return self._runs.popleft() if self._runs else None

    def wait(self) -> asyncio.Future[Run] | None:
        """A future for the next run. None: enough workers are idle, so this worker should end."""
        if len(self._idle) >= MAX_IDLE_WORKERS:
            return None
        if self._loop is None:  # cached: in Python 3.11, get_running_loop makes a system call
            self._loop = asyncio.get_running_loop()
        worker: asyncio.Future[Run] = self._loop.create_future()
        self._idle.append(worker)
        return worker

    async def workers_wanted(self) -> int:
        """Wait until there are too few workers for the ready runs. Returns how many to add."""
        await self._worker_needed.wait()
        self._worker_needed.clear()
        count, self._missing_count = self._missing_count, 0
        return count
