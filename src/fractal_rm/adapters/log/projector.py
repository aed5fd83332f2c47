"""The projector: copies the content of the log into the history, in batches.

Ended runs are copied with every batch. Most of them began after the last batch, so they are
written only once. Open runs are copied when the log has too many segments, or when nothing was
written since the last batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from fractal_rm.adapters.log.history import History, Projected
from fractal_rm.adapters.log.output import Output
from fractal_rm.adapters.log.run_updates import RunUpdates
from fractal_rm.adapters.log.segments import segment_number_at
from fractal_rm.adapters.log.threads import Threads
from fractal_rm.domain.journal_errors import JournalBlocked

PROJECT_EVERY_S = 5.0
PROJECT_BYTES = 1024 * 1024  # larger batches would block other threads for longer
RUNS_PER_TURN = 64  # adding them takes half a millisecond
# Open runs are copied when the log has this many segments. A run that ends before is copied once.
SEGMENTS_BEFORE_COPY = 8
RETRY_BLOCKED_S = 0.5


class Projector:
    """Copies the log at intervals, and sooner if many bytes were written.

    ``flush`` writes the appended facts to the log, and returns whether all of them are written.
    """

    def __init__(
        self, output: Output, history: History, flush: Callable[[], bool], threads: Threads
    ) -> None:
        self._log = output.log
        self._recent = output.recent
        self._retention_ms = output.retention_ms
        self._history = history
        self._flush = flush
        self._threads = threads
        self._wake = asyncio.Event()
        self._waiting: list[tuple[bool, asyncio.Future[None]]] = []  # (copy open runs?, waiter)
        self._closing = False
        self._reached: Projected

    @property
    def reached(self) -> int:
        """The position before which the history has everything."""
        return self._reached.all

    def begin(self) -> None:
        """Prepare to copy. The history must have all of the log."""
        self._reached = Projected(self._log.end, self._log.end)
        self._recent.begin(self._reached)

    async def run(self, writer_stopped: Awaitable[None]) -> None:
        """Copy until `end` is called. ``writer_stopped``: the last copy waits for this."""
        is_last = False
        while not is_last:
            last_end = self._log.end
            self._log.notify_at(last_end + PROJECT_BYTES, self._wake.set)
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), PROJECT_EVERY_S)
            self._wake.clear()
            is_last = self._closing
            if is_last:
                await writer_stopped
            waiting, self._waiting = self._waiting, []
            if waiting:
                open_runs = any(with_open for with_open, _ in waiting)
            else:
                open_runs = last_end == self._log.end or self._holds_many_segments()
            if not await self._copy(open_runs=is_last or open_runs):
                for _, waiter in waiting:
                    waiter.cancel()
                return
            await self._threads.projecting.run(partial(self._maintain, self._retention_ms()))
            for _, waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)

    def update_history(self, *, open_runs: bool) -> asyncio.Future[None]:
        """Copy now. The future is done when the history has everything written before this call.

        ``open_runs``: also copy open runs.
        """
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append((open_runs, waiter))
        self._wake.set()
        return waiter

    def end(self) -> None:
        """Copy everything once more, then stop."""
        self._closing = True
        self._wake.set()

    def _holds_many_segments(self) -> bool:
        return (
            segment_number_at(self._log.end) - segment_number_at(self._reached.all)
            >= SEGMENTS_BEFORE_COPY
        )

    async def _copy(self, *, open_runs: bool) -> bool:
        """Sync the log, then copy. Returns whether the copy is complete.

        The sync is first because, after a power loss, the log must have everything that the history
        has. The copy fails if the history is locked and `end` was called. Then no later update may
        be copied, as the next start continues at the position that the history has reached.
        """
        open_runs = self._flush() and open_runs  # only if all facts are in the log
        current = self._recent.current
        has_updates = bool(current) if open_runs else current.can_take_ended
        if not has_updates:
            return True
        end = self._log.end
        reached = Projected(all=end if open_runs else self._reached.all, ended=end)
        take = self._recent.take_all if open_runs else self._recent.take_ended
        updates = take(reached)
        await self._threads.syncing.run(self._log.sync)
        while not await self._try_project(updates, reached):
            if self._closing:
                return False
            await asyncio.sleep(RETRY_BLOCKED_S)
        self._reached = reached
        self._recent.mark_projected()
        self._log.release(reached.all)
        return True

    def _maintain(self, retention_ms: int) -> None:
        """Purge some runs and verify some rows of the history. Runs on the thread."""
        with suppress(JournalBlocked):  # the purge is tried again after the next batch
            self._history.purge(retention_ms)
        self._history.scrub()

    async def _try_project(self, updates: RunUpdates, reached: Projected) -> bool:
        """Try to copy; returns whether it succeeded.

        Prepares a segment first, as the log grows while the history is locked.
        """
        with suppress(JournalBlocked):  # the writer will report the error if it needs a segment
            await self._log.prepare(self._threads.projecting)
        try:
            await self._project(updates, reached)
        except JournalBlocked:
            return False
        return True

    async def _project(self, updates: RunUpdates, reached: Projected) -> None:
        """Write the updates to the history. Raises JournalBlocked.

        Calls that may wait for the disk run on the thread. New runs are added on the event loop: on
        the thread, each statement would wait for the interpreter lock, which costs more than the
        statement itself.
        """
        history = self._history
        await self._threads.projecting.run(partial(history.begin, updates))
        new = updates.new
        for at in range(0, len(new), RUNS_PER_TURN):
            history.add(new[at : at + RUNS_PER_TURN])
            await asyncio.sleep(0)
        await self._threads.projecting.run(partial(history.commit, updates, reached))
