"""Group commit: everything that is handed in while one transaction is written shares the next.

    event loop                      writer's thread
    accept, append, find ──ids────> looks up trigger ids, where there are any
    BEGIN, INSERT …      <──known───┘
                         ──filled─> COMMIT (one fsync)
    waiters are woken    <──answers─┘

A transaction is filled on the loop, 10 µs for each run: the thread would have to win the
interpreter from it at every statement. What waits is done on the thread: the fsync; looking for
ids, which may stand anywhere in the file; BEGIN, where another program holds the file. What else is
written stands near its end, and in memory.

A group leaves when somebody waits for it; facts that are written behind go along, or leave by
themselves after WRITE_BEHIND_S.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fractal_rm.adapters.sqlite.group import Change, Group, Writing
from fractal_rm.adapters.sqlite.retention import PURGE_EVERY_S, Keep, Turns
from fractal_rm.adapters.sqlite.store import Store
from fractal_rm.adapters.sqlite.writer_thread import WriterThread
from fractal_rm.domain.errors import JournalBlocked, JournalError, JournalGone, JournalLost
from fractal_rm.domain.run import AnyFact, Run
from fractal_rm.engine.ports import Entry, Prior, Recovered

# A group waits for company the longer, the more runs the one before it had: fewer commits under
# load, and less work for each run, and hardly a wait where few come.
GATHER_FOR_EACH_S = 0.00004
GATHER_AT_MOST_S = 0.004
WRITE_BEHIND_S = 0.05
RETRY_BLOCKED_S = 0.5

Result = TypeVar("Result")


class _Pending:
    """A group, who waits for it, and when it has left the rows that it became."""

    __slots__ = ("accepted", "done", "finds", "group", "writing")

    def __init__(self) -> None:
        self.writing: Writing
        self.group = Group()
        self.accepted: list[asyncio.Future[Prior | None]] = []
        self.finds: list[asyncio.Future[Prior | None]] = []
        self.done: list[asyncio.Future[None]] = []


class SqliteJournal:
    """Port `Journal`. ``on_lost`` is called where the disk can no longer be trusted (G7).

    ``retention_ms`` is the clock by which history ages.
    """

    def __init__(
        self,
        path: Path,
        *,
        keep: Keep,
        retention_ms: Callable[[], int],
        on_lost: Callable[[JournalError], None],
        synchronous: str = "FULL",
        purge_every_s: float = PURGE_EVERY_S,
    ) -> None:
        self._store = Store(path, synchronous)
        self._keep = keep
        self._retention_ms = retention_ms
        self._on_lost = on_lost
        self._pending = _Pending()  # is being gathered
        self._sent = _Pending()  # is on its way to the disk
        self._thread = WriterThread(self._lost)
        self._writing = False  # a group or a purge has the file
        self._blocked: JournalBlocked | None = None
        self._closing = self._hurried = False
        self._purges = Turns(purge_every_s)
        self._flush: asyncio.Handle | None = None
        self._gathered_s = float("-inf")  # until then the group gathers
        self._durable = _Durable(self)
        self._loop: asyncio.AbstractEventLoop

    # --- open and close -----------------------------------------------------------------------

    async def open(self) -> Recovered:
        """Take the journal; see the port."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()
        try:
            return await self._thread.run(self._store.open)
        except BaseException:
            self._thread.end()
            raise

    async def close(self, *, clean: bool) -> None:
        """Write what was given, let go. While it is blocked, what was given cannot be."""
        if not self._thread.running:
            return
        self._closing = True
        while self._writing or (self._blocked is None and self._has_pending()):
            with suppress(JournalBlocked):  # what is left stays undone, and the end is not clean
                await self.wait_durable()
        self._cancel_flush()
        try:
            await self._thread.run(lambda: self._store.close(clean=clean and self._blocked is None))
        except JournalBlocked as error:
            self._blocked = error
        finally:
            self._thread.end()

    # --- the port -----------------------------------------------------------------------------

    def accept(self, entry: Entry) -> asyncio.Future[Prior | None]:
        """Write a new run; see the port."""
        waiter: asyncio.Future[Prior | None] = self._loop.create_future()
        if self._blocked is not None:
            waiter.set_exception(_again(self._blocked))
            return waiter
        pending = self._pending
        pending.group.entries.append(entry)
        pending.accepted.append(waiter)
        self._hurry()
        return waiter

    async def find(self, key: str, retention_ms: int) -> Prior | None:
        """Look a key up; see the port."""
        if self._blocked is not None:
            raise _again(self._blocked)
        pending = self._pending
        pending.group.finds.append((key, retention_ms))
        waiter: asyncio.Future[Prior | None] = self._loop.create_future()
        pending.finds.append(waiter)
        self._hurry()
        return await waiter

    def append(self, run: Run, fact: AnyFact, at_ms: int) -> Awaitable[None]:
        """Add a fact; see the port."""
        changes = self._pending.group.changes
        change = changes.get(run.id)
        if change is None:
            change = changes[run.id] = Change(run)
        change.page.append((at_ms, fact))
        if self._flush is None and not self._writing:
            self._flush = self._loop.call_later(WRITE_BEHIND_S, self._send)
        return self._durable

    @property
    def blocked(self) -> JournalBlocked | None:
        """Why nothing can be written."""
        return self._blocked

    def look(self) -> None:
        """Look whether the files are where they were; see the port."""
        if self._closing:
            return
        try:
            self._store.look()
        except JournalGone as gone:
            if not self._writing and self._blocked is None:  # else what is written sees it, too
                self._found_blocked(gone)
        except JournalLost as error:
            self._lost(error)

    # --- groups -------------------------------------------------------------------------------

    def wait_durable(self) -> asyncio.Future[None]:
        """A future that is done when everything handed in so far is on the disk."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._pending.done.append(waiter)
        self._hurry()
        return waiter

    def _hurry(self) -> None:
        """Somebody waits: the group leaves at once, or soon after the last one."""
        if self._writing or self._blocked or self._hurried:
            return
        self._cancel_flush()
        self._hurried = True
        wait_s = self._gathered_s - self._loop.time()
        self._flush = self._loop.call_later(max(0.0, wait_s), self._send)

    def _has_pending(self) -> bool:
        pending = self._pending
        group = pending.group
        return bool(group.entries or group.changes or group.finds or pending.done)

    def _cancel_flush(self) -> None:
        if self._flush is not None:
            self._flush.cancel()
        self._flush, self._hurried = None, False

    def _send(self) -> None:
        """What follows belongs to the next group."""
        self._flush, self._hurried = None, False
        if self._writing or not self._thread.running:
            return
        self._sent, self._pending = self._pending, _Pending()
        self._writing = True
        group = self._sent.group
        group.probe = self._blocked is not None
        try:
            self._sent.writing = self._store.rows_of(group.changes, self._retention_ms())
        except Exception as error:  # noqa: BLE001 - as on the thread
            self._lost(error)
            return
        keyed = group.keyed()
        if keyed:
            self._try(partial(self._store.look_up, keyed), self._fill)
        else:
            self._fill({})

    def _fill(self, known: dict[int, Prior], *, begun: bool = False) -> None:
        group = self._sent.group
        try:
            if not begun and not self._store.begin():
                self._try(self._store.wait_to_begin, lambda _: self._fill(known, begun=True))
                return
            self._store.fill(self._sent.writing, group, known)
        except JournalBlocked as error:
            self._found_blocked(error)
        except Exception as error:  # noqa: BLE001 - as on the thread
            self._lost(error)
        else:
            # Of the group, no more than that: letting go of facts and rows on the thread would
            # bring each of them over to its core, 4 µs a run.
            self._try(partial(self._store.commit, group.finds), self._written)

    def _written(self, answers: Sequence[Prior | None]) -> None:
        try:
            self._store.check_place()
        except JournalGone as gone:
            self._hold(answers, gone)
            return
        sent, self._sent = self._sent, _Pending()
        self._store.took(sent.writing)
        self._writing, self._blocked = False, None
        runs = len(sent.group.entries) + len(sent.group.changes)
        gather_s = min(runs * GATHER_FOR_EACH_S, GATHER_AT_MOST_S)
        self._gathered_s = self._loop.time() + gather_s
        for position, waiter in enumerate(sent.accepted):
            if not waiter.done():
                waiter.set_result(sent.writing.known.get(position))
        for waiter, found in zip(sent.finds, answers, strict=True):
            if not waiter.done():
                waiter.set_result(found)
        for waiter in sent.done:
            if not waiter.done():
                waiter.set_result(None)
        if self._closing or not self._purges.come(self._loop.time()):
            self._go_on()
            return
        self._writing = True  # old history goes when who waited has been told
        self._thread.put(partial(self._purge, self._retention_ms(), *self._keep()))

    def _go_on(self) -> None:
        pending = self._pending
        if pending.accepted or pending.finds or pending.done:
            self._hurry()
        elif pending.group.changes:
            self._flush = self._loop.call_later(WRITE_BEHIND_S, self._send)

    def _found_blocked(self, error: JournalBlocked) -> None:
        """New runs are refused; facts of open runs wait, and what waits for them waits too (G7)."""
        self._writing, self._blocked = False, error
        self._cancel_flush()
        sent, self._sent = self._sent, _Pending()
        later, self._pending = self._pending, _Pending()
        self._pending.group.changes = later.group.changes
        self._pending.group.put_before(sent.group.changes)
        if not self._closing:
            self._flush = self._loop.call_later(RETRY_BLOCKED_S, self._send)
        self._refuse(sent, error)
        self._refuse(later, error)

    def _hold(self, answers: Sequence[Prior | None], gone: JournalGone) -> None:
        """Durable, but not where it will be looked for: that is answered when the files are back.

        To refuse it would be wrong as well: it is run when they are back at the next start.
        """
        self._blocked = gone
        later, self._pending = self._pending, _Pending()
        self._pending.group.changes = later.group.changes
        self._refuse(later, gone)
        if not self._closing:
            self._loop.call_later(RETRY_BLOCKED_S, self._written, answers)
            return
        sent, self._sent = self._sent, _Pending()
        self._store.took(sent.writing)
        self._writing = False
        self._refuse(sent, gone)  # it counts as a crash: nobody was told, and the run may be there

    def _refuse(self, group: _Pending, error: JournalBlocked) -> None:
        """What is new. What waits for facts waits on, unless this journal writes no more."""
        refused = [*group.accepted, *group.finds]
        if self._closing:
            refused += group.done
        else:
            self._pending.done += group.done
        for waiter in refused:
            if not waiter.done():
                waiter.set_exception(error)

    def _purge(self, retention_ms: int, history_s: int, history_bytes: int) -> None:
        """On the writer's thread."""
        more = False
        with suppress(JournalBlocked):  # the next group will find out
            more = self._store.purge(retention_ms, history_s, history_bytes)
        self._thread.tell(partial(self._purged, more=more))

    def _purged(self, *, more: bool) -> None:
        self._writing = False
        if more:
            self._purges.again()
        self._go_on()

    # --- the writer's thread ------------------------------------------------------------------

    def _try(self, work: Callable[[], Result], then: Callable[[Result], None]) -> None:
        """Have ``work`` done on the thread, and go on with what came of it on the loop."""

        def job() -> None:
            try:
                result = work()
            except JournalBlocked as error:
                self._thread.tell(partial(self._found_blocked, error))
            else:
                self._thread.tell(partial(then, result))

        self._thread.put(job)

    def _lost(self, error: Exception) -> None:
        """What the disk holds is unknown (G7). Nothing more is written, whatever waits."""
        self._on_lost(error if isinstance(error, JournalError) else JournalLost(repr(error)))


def _again(blocked: JournalBlocked) -> JournalBlocked:
    """To be raised: one that is raised again and again keeps every place where it was."""
    return type(blocked)(*blocked.args)


class _Durable:
    """Done when what was handed in so far is durable; costs nothing where nobody waits."""

    __slots__ = ("_journal",)

    def __init__(self, journal: SqliteJournal) -> None:
        self._journal = journal

    def __await__(self) -> Generator[Any, None, None]:
        return self._journal.wait_durable().__await__()
