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
        self._unserved = 0  # runs that need a new worker
        self._wanted = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def put(self, run: Run) -> None:
        """Pass a run to an idle worker, or keep it for `take`."""
        while self._idle:
            worker = self._idle.pop()
            if not worker.cancelled():
                worker.set_result(run)
                return
        self._runs.append(run)
        self._unserved += 1
        self._wanted.set()

    def take(self) -> Run | None:
        """A run that no worker waited for; None: there is none."""
        return self._runs.popleft() if self._runs else None

    def wait(self) -> asyncio.Future[Run] | None:
        """A future for the next run. None: enough workers are idle, so this worker should end."""
        if len(self._idle) >= MAX_IDLE_WORKERS:
            return None
        if self._loop is None:  # kept, because in Python 3.11 the call makes a system call
            self._loop = asyncio.get_running_loop()
        worker: asyncio.Future[Run] = self._loop.create_future()
        self._idle.append(worker)
        return worker

    async def workers_wanted(self) -> int:
        """Wait until runs are ready that no worker waits for. Returns their number."""
        await self._wanted.wait()
        self._wanted.clear()
        wanted, self._unserved = self._unserved, 0
        return wanted
