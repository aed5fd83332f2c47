"""Outcomes of runs. A waiting caller gets the outcome when the end of the run is durable."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable

from fractal_rm.domain.run import Outcome, Run
from fractal_rm.engine.open_runs import OpenRuns

MAX_ENDED = 64  # ended runs to remember; more would fill the processor's caches
MAX_ENDED_BYTES = 1024 * 1024  # the total size of the payloads and results of these runs


class Outcomes:
    """The waiters for open runs, and the last ended runs, bounded in number and bytes."""

    def __init__(self, runs: OpenRuns) -> None:
        self._runs = runs
        self._waiters: dict[str, list[asyncio.Future[Outcome | None]]] = {}
        self._ended: deque[tuple[Run, Awaitable[None]]] = deque()
        self._ended_bytes = 0
        self._released = False

    def add_ended(self, run: Run, durable: Awaitable[None]) -> Awaitable[None] | None:
        """Remember an ended run. Returns an awaitable that notifies its waiters; None: no waiters.

        ``durable`` completes when the end of the run is durable.
        """
        ended_runs = self._ended
        ended_runs.append((run, durable))
        self._ended_bytes += run.payload_bytes + run.progress.result_bytes
        while len(ended_runs) > MAX_ENDED or self._ended_bytes > MAX_ENDED_BYTES:
            oldest, _ = ended_runs.popleft()
            self._ended_bytes -= oldest.payload_bytes + oldest.progress.result_bytes
        waiters = self._waiters.pop(run.id, None)
        return None if waiters is None else self._notify(run, waiters, durable)

    async def wait(self, run_id: str, timeout_s: float) -> Outcome | None:
        """Wait for the outcome of a run. None: it did not end in time, or is not known here."""
        for run, durable in self._ended:
            if run.id == run_id:
                return await self._with_timeout(_outcome(run, durable), timeout_s)
        if run_id not in self._runs or self._released:
            return None
        waiter: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(run_id, []).append(waiter)
        try:
            return await self._with_timeout(waiter, timeout_s)
        finally:
            self._remove(run_id, waiter)

    def release_all(self) -> None:
        """Let all waiters return None. Later calls of `wait` for open runs return None, too."""
        self._released = True
        for waiters in self._waiters.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        self._waiters.clear()

    @property
    def waiting(self) -> int:
        """The number of runs that have waiters."""
        return len(self._waiters)

    async def _notify(
        self, run: Run, waiters: list[asyncio.Future[Outcome | None]], durable: Awaitable[None]
    ) -> None:
        outcome = await _outcome(run, durable)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(outcome)

    async def _with_timeout(
        self, outcome: Awaitable[Outcome | None], timeout_s: float
    ) -> Outcome | None:
        try:
            return await asyncio.wait_for(outcome, timeout_s)
        except asyncio.TimeoutError:
            return None

    def _remove(self, run_id: str, waiter: asyncio.Future[Outcome | None]) -> None:
        waiters = self._waiters.get(run_id)
        if waiters is not None and waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiters[run_id]


async def _outcome(run: Run, durable: Awaitable[None]) -> Outcome:
    await durable
    return run.outcome()
