"""How runs ended, for those who wait: told once the end is durable, and kept for a short while."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable

from fractal_rm.domain.run import Outcome, Run
from fractal_rm.engine.open_runs import OpenRuns

MOST_KEPT = 64  # ended runs: more would push others out of the processor's caches
MOST_KEPT_BYTES = 1024 * 1024  # of their payloads and results


class Outcomes:
    """Waiters for open runs, and the runs that ended last, bounded in number and in bytes."""

    def __init__(self, runs: OpenRuns) -> None:
        self._runs = runs
        self._waiters: dict[str, list[asyncio.Future[Outcome | None]]] = {}
        self._ended: deque[tuple[Run, Awaitable[None]]] = deque()
        self._kept_bytes = 0
        self._released = False

    def ended(self, run: Run, durable: Awaitable[None]) -> Awaitable[None] | None:
        """Keep how a run ended. Returns what to await so that its waiters are told; None: none."""
        ended = self._ended
        ended.append((run, durable))
        self._kept_bytes += run.payload_bytes + run.result_bytes
        while len(ended) > MOST_KEPT or self._kept_bytes > MOST_KEPT_BYTES:
            oldest, _ = ended.popleft()
            self._kept_bytes -= oldest.payload_bytes + oldest.result_bytes
        waiters = self._waiters.pop(run.id, None)
        return None if waiters is None else self._tell(run, waiters, durable)

    async def wait(self, run_id: str, timeout_s: float) -> Outcome | None:
        """How a run ends, or ended lately; None if it has not in time, or is not known here."""
        for run, durable in self._ended:
            if run.id == run_id:
                return await self._within(_outcome(run, durable), timeout_s)
        if run_id not in self._runs or self._released:
            return None
        waiter: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(run_id, []).append(waiter)
        try:
            return await self._within(waiter, timeout_s)
        finally:
            self._remove(run_id, waiter)

    def release_all(self) -> None:
        """Release all waiters; later calls for open runs return None."""
        self._released = True
        for waiters in self._waiters.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        self._waiters.clear()

    @property
    def waiting(self) -> int:
        """How many runs somebody waits for."""
        return len(self._waiters)

    async def _tell(
        self, run: Run, waiters: list[asyncio.Future[Outcome | None]], durable: Awaitable[None]
    ) -> None:
        outcome = await _outcome(run, durable)
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(outcome)

    async def _within(self, outcome: Awaitable[Outcome | None], timeout_s: float) -> Outcome | None:
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
