"""The journal: a log that is written and synced, and a history that it is brought into.

accept, find, durable ──> `Writer`: gather, look up, write, sync, answer
append ─────────────────> `Writer`: write at the end of the turn; the next group syncs it
log ────────────────────> `Projector`: into the history, in batches, beside all that
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from fractal_rm.adapters.log.adoption import Adoption
from fractal_rm.adapters.log.disk import unusable
from fractal_rm.adapters.log.group import again
from fractal_rm.adapters.log.history import History, Projected
from fractal_rm.adapters.log.log import Log
from fractal_rm.adapters.log.others import NoOthers, OtherJournals
from fractal_rm.adapters.log.projector import Projector
from fractal_rm.adapters.log.replay import told_in
from fractal_rm.adapters.log.stories import Recent
from fractal_rm.adapters.log.threads import Worker
from fractal_rm.adapters.log.writer import Writer
from fractal_rm.domain.errors import JournalBlocked, JournalError, JournalGone, JournalLost
from fractal_rm.engine.ports import Adopted, Entry, Prior, Recovered, Written


class LogJournal:
    """Port `Journal`. ``on_lost`` is called where the disk can no longer be trusted.

    ``retention_ms`` is the clock by which history ages.
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
    ) -> None:
        self._log = log
        self._history = history
        self._syncing = worker("journal")
        self._projecting = worker("history")
        self._retention_ms = retention_ms
        self._on_lost = on_lost
        self._is_open = False
        self._tasks: list[asyncio.Task[None]] = []
        recent = Recent()
        self._others = others = others or NoOthers()
        self._writer = Writer(log, history, others, recent, self._syncing, retention_ms, self._lose)
        self.append = self._writer.append  # see the port
        self.durable = self._writer.durable
        self._projector = Projector(
            log, history, recent, self._writer.tell_all, self._syncing, self._projecting,
            retention_ms,
        )  # fmt: skip
        self._adoption = Adoption(
            others, history, recent, self._syncing, self._projecting,
            self._writer.take_in, self._writer.wait_durable,
        )  # fmt: skip

    # --- open and close -----------------------------------------------------------------------

    async def open(self) -> Recovered:
        """Take the journal; see the port."""
        self._syncing.start()
        self._projecting.start()
        try:
            recovered: Recovered = await self._projecting.run(self._open)
        except BaseException:
            self._syncing.end()
            self._projecting.end()
            raise
        self._writer.begin()
        self._projector.begin()
        writing = asyncio.ensure_future(self._guarded(self._writer.run()))
        projecting = asyncio.ensure_future(self._guarded(self._projector.run(writing)))
        self._tasks = [writing, projecting]
        self._is_open = True
        return recovered

    def _open(self) -> Recovered:
        """Bring the history up to the end of the log, and read from it which runs are open."""
        had = self._history.open()
        try:
            self._bring_up(had)
            self._adoption.drop_copies()
            self._history.sweep()
            return self._history.recover()
        except OSError as error:
            self._let_go()
            raise unusable(error) from error
        except BaseException:
            self._let_go()
            raise

    def _bring_up(self, had: Projected) -> None:
        stories = told_in(self._log.open(*had), self._history.run_of, had.ended)
        self._log.begin()
        self._history.project(stories, Projected(self._log.end, self._log.end))
        self._log.release(self._log.end)

    def _let_go(self) -> None:
        self._history.close(clean=False)
        self._log.close()

    async def close(self, *, clean: bool) -> None:
        """Write what was given, let go. While it is blocked, what was given cannot be."""
        if not self._is_open:
            return
        self._is_open = False
        self._writer.end()
        self._projector.end()
        await asyncio.gather(*self._tasks)
        clean = clean and self._writer.blocked is None
        try:
            await self._projecting.run(lambda: self._history.close(clean=clean))
        except JournalBlocked as error:
            self._writer.blocked = error
        finally:
            self._log.close()
            self._syncing.end()
            self._projecting.end()
            self._others.close()

    def crash(self) -> None:
        """End as kill -9 does: what the system has is kept, the rest is forgotten."""
        self._is_open = False
        self._writer.kill()
        for task in self._tasks:
            task.cancel()
        self._syncing.end()
        self._projecting.end()
        self._history.let_go()
        self._log.close()
        self._others.close()

    # --- the port -----------------------------------------------------------------------------

    def accept(self, entry: Entry) -> Written:
        """Write a new run; see the port."""
        writer = self._writer
        waiter = Written(loop=writer.loop)
        if writer.blocked is not None:
            waiter.set_exception(again(writer.blocked))
            return waiter
        entries = writer.group.entries
        entries.append((entry, waiter))
        if len(entries) == 1:  # with it, the group is wanted
            writer.want()
        return waiter

    async def find(self, key: str, retention_ms: int) -> Prior | None:
        """Look a key up; see the port."""
        writer = self._writer
        if writer.blocked is not None:
            raise again(writer.blocked)
        waiter: asyncio.Future[Prior | None] = self._writer.loop.create_future()
        writer.group.finds.append((key, retention_ms, waiter))
        writer.want()
        return await waiter

    async def adopt(self) -> list[Adopted]:
        """Move the open runs of journals that no process holds here; see the port."""
        return await self._adoption.adopt() if self._is_open else []

    def wait_durable(self) -> asyncio.Future[None]:
        """A future that is done when everything handed in so far is on the disk."""
        return self._writer.wait_durable()

    async def bring_over(self) -> None:
        """Return when the history has all that was handed in before, and what is old has gone."""
        self._writer.write_behind()
        await self._projector.bring_over()

    @property
    def blocked(self) -> JournalBlocked | None:
        """Why nothing can be written."""
        return self._writer.blocked

    @property
    def damage(self) -> str | None:
        """What is known to be damaged in the history."""
        return self._history.damage

    def look(self) -> None:
        """Look whether the files are where they were; see the port."""
        if not self._is_open:
            return
        try:
            self._log.check()
            self._history.look()
        except JournalGone as gone:
            if self._writer.blocked is None:
                self._writer.block(gone)
        except JournalLost as error:
            self._on_lost(error)

    # --- what ends it ---------------------------------------------------------------------------

    async def _guarded(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - the top of a task
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        """What the disk holds is unknown. Nothing more is written, whatever waits."""
        self._on_lost(error if isinstance(error, JournalError) else JournalLost(repr(error)))
