"""The projector: what the log holds is brought into the history, in batches, beside all else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from fractal_rm.adapters.log.history import History
from fractal_rm.adapters.log.log import Log
from fractal_rm.adapters.log.stories import Recent, Stories
from fractal_rm.adapters.log.threads import Worker
from fractal_rm.domain.errors import JournalBlocked

PROJECT_EVERY_S = 2.0
PROJECT_BYTES = 1024 * 1024  # larger batches hold others up for longer
RETRY_BLOCKED_S = 0.5


class Projector:
    """Brings over every so often, and sooner where much was written.

    ``syncing`` and ``projecting`` are the threads that wait for the log and for the history.
    """

    def __init__(
        self,
        log: Log,
        history: History,
        recent: Recent,
        syncing: Worker,
        projecting: Worker,
        retention_ms: Callable[[], int],
    ) -> None:
        self._log = log
        self._history = history
        self._recent = recent
        self._syncing = syncing
        self._projecting = projecting
        self._retention_ms = retention_ms
        self._wanted = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._ends = False

    async def run(self, written: Awaitable[None]) -> None:
        """Bring over until `end`; ``written`` is done when nothing more comes then."""
        self._log.tell_at(self._log.end + PROJECT_BYTES, self._wanted.set)
        ends = False
        while not ends:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), PROJECT_EVERY_S)
            self._wanted.clear()
            ends = self._ends
            if ends:
                await written
            waiting, self._waiting = self._waiting, []
            if (self._recent.told or waiting) and not await self._bring_over():
                for waiter in waiting:
                    waiter.cancel()
                return
            await self._projecting.run(self._history.scrub)
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)

    def bring_over(self) -> asyncio.Future[None]:
        """Now. Done when the history has all that was written before."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._wanted.set()
        return waiter

    def end(self) -> None:
        """Bring over what there is, once more."""
        self._ends = True
        self._wanted.set()

    async def _bring_over(self) -> bool:
        """Synced first: what the history has, the log must not lack after a power cut.

        False: it ends, and the history is held. Nothing later may be brought over then: the next
        start goes on where the history ends.
        """
        leaving, position = self._recent.leave(), self._log.end
        await self._syncing.run(self._log.sync)
        while not await self._is_projected(leaving, position):
            if self._ends:
                return False
            await asyncio.sleep(RETRY_BLOCKED_S)
        self._recent.arrived()
        self._log.tell_at(position + PROJECT_BYTES, self._wanted.set)
        self._log.release(position)
        with suppress(JournalBlocked):  # another time
            await self._projecting.run(partial(self._history.purge, self._retention_ms()))
        return True

    async def _is_projected(self, leaving: Stories, position: int) -> bool:
        """Try it; where the history is held, the log still has its next segment ready."""
        with suppress(JournalBlocked):  # the writer says so, once it needs one
            await self._log.prepare(self._projecting)
        try:
            await self._projecting.run(partial(self._history.project, leaving, position))
        except JournalBlocked:
            return False
        return True
