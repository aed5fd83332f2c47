"""The projector: what the log holds is brought into the history, in batches, beside all else.

Runs that have ended go often: most of them began and ended in between, and are written once. What
is told of open runs goes when the log would hold on to too much, or when nothing comes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from fractal_rm.adapters.log.history import History, Projected
from fractal_rm.adapters.log.log import Log
from fractal_rm.adapters.log.segments import number_of
from fractal_rm.adapters.log.stories import Recent, Stories
from fractal_rm.adapters.log.threads import Worker
from fractal_rm.domain.journal_errors import JournalBlocked

PROJECT_EVERY_S = 5.0
PROJECT_BYTES = 1024 * 1024  # larger batches hold others up for longer
ADDED_AT_ONCE = 64  # runs; half a millisecond
# For the sake of open runs: one that ends meanwhile is written into the history once.
SEGMENTS_HELD = 8
RETRY_BLOCKED_S = 0.5


class Projector:
    """Brings over every so often, and sooner where much was written.

    ``all_told`` writes what waits to be written, and says whether ``recent`` has all of it.
    ``syncing`` and ``projecting`` are the threads that wait for the log and for the history.
    """

    def __init__(
        self,
        log: Log,
        history: History,
        recent: Recent,
        all_told: Callable[[], bool],
        syncing: Worker,
        projecting: Worker,
        retention_ms: Callable[[], int],
    ) -> None:
        self._log = log
        self._history = history
        self._recent = recent
        self._all_told = all_told
        self._syncing = syncing
        self._projecting = projecting
        self._retention_ms = retention_ms
        self._wanted = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._ends = False
        self._reached: Projected

    def begin(self) -> None:
        """The history has all that the log holds."""
        self._reached = Projected(self._log.end, self._log.end)

    async def run(self, written: Awaitable[None]) -> None:
        """Bring over until `end`; ``written`` is done when nothing more comes then."""
        ends = False
        while not ends:
            looked = self._log.end
            self._log.tell_at(looked + PROJECT_BYTES, self._wanted.set)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), PROJECT_EVERY_S)
            self._wanted.clear()
            ends = self._ends
            if ends:
                await written
            waiting, self._waiting = self._waiting, []
            whole = bool(ends or waiting or looked == self._log.end or self._holds_much())
            if not await self._bring_over(whole=whole):
                for waiter in waiting:
                    waiter.cancel()
                return
            await self._projecting.run(partial(self._look_after, self._retention_ms()))
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

    def _holds_much(self) -> bool:
        return number_of(self._log.end) - number_of(self._reached.all) >= SEGMENTS_HELD

    async def _bring_over(self, *, whole: bool) -> bool:
        """Synced first: what the history has, the log must not lack after a power cut.

        False: it ends, and the history is held. Nothing later may be brought over then: the next
        start goes on where the history ends.
        """
        whole = self._all_told() and whole
        if not (self._recent.told if whole else self._recent.told.has_ended):
            return True
        leaving = self._recent.leave() if whole else self._recent.leave_ended()
        end = self._log.end
        reached = Projected(end if whole else self._reached.all, end)
        await self._syncing.run(self._log.sync)
        while not await self._is_projected(leaving, reached):
            if self._ends:
                return False
            await asyncio.sleep(RETRY_BLOCKED_S)
        self._reached = reached
        self._recent.arrived()
        self._log.release(reached.all)
        return True

    def _look_after(self, retention_ms: int) -> None:
        """On the thread."""
        with suppress(JournalBlocked):  # another time
            self._history.purge(retention_ms)
        self._history.scrub()

    async def _is_projected(self, leaving: Stories, reached: Projected) -> bool:
        """Try it; where the history is held, the log still has its next segment ready."""
        with suppress(JournalBlocked):  # the writer says so, once it needs one
            await self._log.prepare(self._projecting)
        try:
            await self._project(leaving, reached)
        except JournalBlocked:
            return False
        return True

    async def _project(self, leaving: Stories, reached: Projected) -> None:
        """What may wait for the disk is done on the thread, but new runs are added on the loop.

        The thread would have to win the interpreter from it at every statement, and that costs
        more than the statements do. Raises JournalBlocked.
        """
        history = self._history
        await self._projecting.run(partial(history.begin, leaving))
        new = leaving.new
        for at in range(0, len(new), ADDED_AT_ONCE):
            history.add(new[at : at + ADDED_AT_ONCE])
            await asyncio.sleep(0)
        await self._projecting.run(partial(history.commit, leaving, reached))
