"""The journal: facts are written to a log, which is synced, and later copied into a history.

accept, find, durable ──> `Writer`: gather, look up, write, sync, answer
append ─────────────────> `Writer`: write at the end of the event loop turn; the next sync covers it
log ────────────────────> `Projector`: copy to the history in batches, while the writer continues
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fractal_rm.adapters.log.adoption import Adoption
from fractal_rm.adapters.log.disk import unusable
from fractal_rm.adapters.log.group import copy_of
from fractal_rm.adapters.log.history import History, KeyQuery, Projected
from fractal_rm.adapters.log.log import Log
from fractal_rm.adapters.log.lookup import Lookup
from fractal_rm.adapters.log.others import NoOthers, OtherJournals
from fractal_rm.adapters.log.output import Output
from fractal_rm.adapters.log.projector import Projector
from fractal_rm.adapters.log.recent_updates import RecentUpdates, Unprojected
from fractal_rm.adapters.log.replay import updates_in
from fractal_rm.adapters.log.threads import Threads, Worker
from fractal_rm.adapters.log.writer import Writer
from fractal_rm.domain.journal_errors import JournalBlocked, JournalError, JournalLost, JournalMoved
from fractal_rm.engine.ports import (
    AcceptFuture,
    Adopted,
    Counting,
    ExistingRun,
    JournalSizes,
    NewRun,
    Recovered,
)


class LogJournal:
    """Port `Journal`, with a log and a history.

    ``on_lost`` is called with an error after which the content of the disk is unknown.
    ``retention_ms`` reads the retention clock. ``measure`` returns the bytes of all files; it may
    take long, so a thread calls it. ``counting`` counts written facts and syncs.
    """

    def __init__(
        self,
        log: Log,
        history: History,
        *,
        worker: Callable[[str], Worker],
        retention_ms: Callable[[], int],
        on_lost: Callable[[JournalError], None],
        others: OtherJournals | None = None,
        measure: Callable[[], int] = lambda: 0,
        counting: Counting | None = None,
    ) -> None:
        self.log = log
        self.history = history
        self._threads = threads = Threads(worker("journal"), worker("history"))
        self._on_lost = on_lost
        self._measure = measure
        self._tasks: list[asyncio.Task[None]] = []  # while the journal is open
        recent = RecentUpdates()
        others = others or NoOthers()
        self._output = output = Output(log, recent, retention_ms)
        lookup = Lookup(recent, history, others, threads.syncing)
        self._writer = writer = Writer(
            output, history, lookup, threads.syncing, self._report_lost, counting or Counting()
        )
        self.append = writer.facts.append  # see the port
        self.durable = writer.durable
        self._projector = Projector(output, history, writer.facts.flush, threads)
        self._adoption = Adoption(
            others, history, recent, threads, writer.add_moved_runs, writer.wait_durable
        )

    # --- open and close -----------------------------------------------------------------------

    async def open(self) -> Recovered:
        """Lock and open the journal; see the port."""
        self._threads.start()
        try:
            recovered: Recovered = await self._threads.projecting.run(self.open_files)
        except BaseException:
            self._threads.end()
            raise
        self._writer.begin()
        self._projector.begin()
        writing = asyncio.ensure_future(self._run_guarded(self._writer.run()))
        projecting = asyncio.ensure_future(self._run_guarded(self._projector.run(writing)))
        self._tasks = [writing, projecting]
        return recovered

    def open_files(self) -> Recovered:
        """Open both parts, and copy the rest of the log into the history. Returns the open runs.

        Blocks the calling thread. `open` calls this method and then begins to write.
        """
        projected = self.history.open()
        try:
            self._project_rest(projected)
            self._adoption.drop_copies()
            self.history.sweep()
            return self.history.recover()
        except OSError as error:
            self._close_files()
            raise unusable(error) from error
        except BaseException:
            self._close_files()
            raise

    def _project_rest(self, projected: Projected) -> None:
        history = self.history
        bodies = self.log.open(*projected)
        updates = updates_in(bodies, history.run_of, projected.ended, history.flow_body)
        self.log.begin()
        self.history.project(updates, Projected(self.log.end, self.log.end))
        self.log.release(self.log.end)

    def _close_files(self) -> None:
        self.history.close(clean=False)
        self.log.close()

    async def close(self, *, clean: bool) -> None:
        """Write everything handed in, unless the journal is blocked, and close; see the port."""
        tasks, self._tasks = self._tasks, []
        if not tasks:
            return
        self._writer.end()
        self._projector.end()
        await asyncio.gather(*tasks)
        clean = clean and self.blocked is None
        try:
            await self._threads.projecting.run(lambda: self.history.close(clean=clean))
        except JournalBlocked as error:
            self._output.blocked = error
        finally:
            self.log.close()
            self._threads.end()
            self._adoption.close()

    def crash(self) -> None:
        """Stop as after kill -9: written data remains, the rest is lost."""
        tasks, self._tasks = self._tasks, []
        self._writer.facts.kill()
        for task in tasks:
            task.cancel()
        self._threads.end()
        self.history.abandon()
        self.log.close()
        self._adoption.close()

    # --- the port -----------------------------------------------------------------------------

    def accept(self, entry: NewRun) -> AcceptFuture:
        """Write a new run; see the port."""
        writer, blocked = self._writer, self._output.blocked
        waiter = AcceptFuture(loop=writer.loop)
        if blocked is not None:
            waiter.set_exception(copy_of(blocked))
            return waiter
        entries = writer.calls.group.entries
        entries.append((entry, waiter))
        if len(entries) == 1:  # the first one wakes the writer
            writer.calls.wake()
        return waiter

    async def find(
        self, key: str, retention_ms: int, run_id: str = "", digest: str = ""
    ) -> ExistingRun | None:
        """Look a key or a run up; see the port."""
        writer = self._writer
        if self.blocked is not None:
            raise copy_of(self.blocked)
        waiter: asyncio.Future[ExistingRun | None] = writer.loop.create_future()
        query: KeyQuery = (key, run_id, digest, retention_ms)
        writer.calls.group.finds.append((query, waiter))
        writer.calls.wake()
        return await waiter

    async def adopt(self) -> list[Adopted]:
        """Move open runs here from journals that no process has open; see the port."""
        return await self._adoption.adopt() if self._tasks else []

    def wait_durable(self) -> asyncio.Future[None]:
        """A future that is done when everything handed in so far is durable."""
        return self._writer.wait_durable()

    async def update_history(self, *, open_runs: bool = True) -> None:
        """Copy everything handed in so far to the history, and purge old runs.

        ``open_runs``: if false, copy only runs that have ended.
        """
        self._writer.facts.flush()
        await self._projector.update_history(open_runs=open_runs)

    def unprojected(self) -> Unprojected | None:
        """What the history lacks; None: the journal is not open. Any thread may call this."""
        return self._output.recent.unprojected() if self._tasks else None

    async def sizes(self) -> JournalSizes:
        """How large the journal is; see the port."""
        unprojected_bytes = self.log.bytes_after(self._projector.reached)
        return JournalSizes(await asyncio.to_thread(self._measure), unprojected_bytes)

    @property
    def blocked(self) -> JournalBlocked | None:
        """Why the journal cannot be written now; None: it can be written."""
        return self._output.blocked

    @property
    def damage(self) -> str | None:
        """The damage that was found in the history so far; None: no damage was found."""
        return self.history.damage

    def check(self) -> None:
        """Check whether the files are still at their paths; see the port."""
        if not self._tasks:
            return
        try:
            self.log.check()
            self.history.check_lock()
        except JournalMoved as moved:
            if self.blocked is None:
                self._writer.block(moved)
        except JournalLost as error:
            self._on_lost(error)

    # --- errors that end the journal ------------------------------------------------------------

    async def _run_guarded(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - the top of a task
            self._report_lost(error)

    def _report_lost(self, error: Exception) -> None:
        """Report that the content of the disk is unknown. Nothing more is written."""
        reported = error if isinstance(error, JournalError) else JournalLost(repr(error))
        self._on_lost(reported)
