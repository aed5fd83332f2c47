"""Pass runs that hold a slot to the workers that wait for a run."""

from __future__ import annotations

import asyncio
from collections import deque

from fractal_rm.domain.run import Run

MAX_IDLE_WORKERS = 16  # more idle workers end


class Ready:
    """Passes each run to the worker that became idle last, as its memory is still cached."""

    def __init__(self) -> None:
        self._runs: deque[Run] = deque()
        self._idle: list[asyncio.Future[Run]] = []
        self._unserved = 0  # runs that need a new worker
        self._wanted = asyncio.Event()

    def put(self, run: Run) -> None:
        """Pass a run to an idle worker, or to the next worker that calls `get`."""
        if self._idle:
            self._idle.pop().set_result(run)
            return
        self._runs.append(run)
        self._unserved += 1
        self._wanted.set()

    async def get(self) -> Run | None:
        """Wait for the next run. None: enough workers are idle, so this worker should end."""
        if self._runs:
            return self._runs.popleft()
        if len(self._idle) >= MAX_IDLE_WORKERS:
            return None
        waiter: asyncio.Future[Run] = asyncio.get_running_loop().create_future()
        self._idle.append(waiter)
        try:
            return await waiter
        finally:
            if waiter in self._idle:  # cancelled
                self._idle.remove(waiter)

    async def workers_wanted(self) -> int:
        """Wait until runs are ready that no worker waits for. Returns their number."""
        await self._wanted.wait()
        self._wanted.clear()
        wanted, self._unserved = self._unserved, 0
        return wanted
