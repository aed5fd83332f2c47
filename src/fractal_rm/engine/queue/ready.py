"""Between the queue and its workers: runs that hold a slot, and workers that wait for a run."""

from __future__ import annotations

import asyncio
from collections import deque

from fractal_rm.domain.run import Run

MOST_IDLE = 16  # workers that are kept for the next runs


class Ready:
    """Hands each run to one worker: to the one that became idle last, as its memory is cached."""

    def __init__(self) -> None:
        self._runs: deque[Run] = deque()
        self._idle: list[asyncio.Future[Run]] = []
        self._unserved = 0  # runs for which no worker waited, and no other was started yet
        self._wanted = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def put(self, run: Run) -> None:
        """Hand a run to an idle worker, or to the next one that asks."""
        while self._idle:
            worker = self._idle.pop()
            if not worker.cancelled():
                worker.set_result(run)
                return
        self._runs.append(run)
        self._unserved += 1
        self._wanted.set()

    def take(self) -> Run | None:
        """A run for which no worker waited."""
        return self._runs.popleft() if self._runs else None

    def wait(self) -> asyncio.Future[Run] | None:
        """A future that gets the next run. None: enough workers are idle."""
        if len(self._idle) >= MOST_IDLE:
            return None
        if self._loop is None:  # once, as asking for it is a system call
            self._loop = asyncio.get_running_loop()
        worker: asyncio.Future[Run] = self._loop.create_future()
        self._idle.append(worker)
        return worker

    async def workers_wanted(self) -> int:
        """Wait until runs are ready for which no worker waited. Returns how many."""
        await self._wanted.wait()
        self._wanted.clear()
        wanted, self._unserved = self._unserved, 0
        return wanted
