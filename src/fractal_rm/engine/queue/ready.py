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

    def put(self, run: Run) -> None:
        """Hand a run to an idle worker, or to the next one that asks."""
        if self._idle:
            self._idle.pop().set_result(run)
            return
        self._runs.append(run)
        self._unserved += 1
        self._wanted.set()

    async def get(self) -> Run | None:
        """The next run. None: enough workers are idle, this one is not needed."""
        if self._runs:
            return self._runs.popleft()
        if len(self._idle) >= MOST_IDLE:
            return None
        waiter: asyncio.Future[Run] = asyncio.get_running_loop().create_future()
        self._idle.append(waiter)
        try:
            return await waiter
        finally:
            if waiter in self._idle:  # cancelled
                self._idle.remove(waiter)

    async def workers_wanted(self) -> int:
        """Wait until runs are ready for which no worker waited. Returns how many."""
        await self._wanted.wait()
        self._wanted.clear()
        wanted, self._unserved = self._unserved, 0
        return wanted
