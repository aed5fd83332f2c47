"""The writer: writes new runs and facts to the log, and answers the calls that wait for them.

Waiting calls are handled in groups, one group after the other (`Writer.run`): gather the calls,
look up their keys, write, sync, answer. A call has a new run (`NewRun`), or a key to find, or waits
until earlier writes are durable. If a run with the same key or id existed already, the answer is
that run (`ExistingRun`).

Facts that no call waits for are written at the end of the event loop turn. A killed process loses
none of them. A power loss loses at most the facts of the last second.

Everything runs on the event loop, except two calls that run on ``thread``: `Lookup`, which uses its
own database connection, and `Log.sync`. Facts may be written during both.

While the log cannot be written, new runs and searches fail. Facts wait, and so do the calls that
wait for facts. The writer tries again at intervals even if no call waits, so `blocked` is up to
date.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any

from fractal_rm.adapters.log.batch import AppendedFact, EntryBatch, FactBatch, encoded
from fractal_rm.adapters.log.gather import Gatherer
from fractal_rm.adapters.log.group import Group
from fractal_rm.adapters.log.history import History
from fractal_rm.adapters.log.log import Log
from fractal_rm.adapters.log.lookup import Lookup
from fractal_rm.adapters.log.run_updates import RecentUpdates, RunUpdates
from fractal_rm.adapters.log.threads import Worker
from fractal_rm.domain.facts import AnyFact
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.journal_errors import JournalBlocked, JournalFull, JournalMoved
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import ExistingRun

MAX_UNSYNCED_S = 1.0
RETRY_BLOCKED_S = 0.5
MAX_KNOWN_FLOWS = 1_000


class Writer:
    """Writes groups of calls to the log, one after the other.

    ``thread`` runs the calls that wait for the disk. ``on_lost`` is called with an error after
    which the content of the disk is unknown.
    """

    def __init__(
        self,
        log: Log,
        history: History,
        lookup: Lookup,
        recent: RecentUpdates,
        thread: Worker,
        retention_ms: Callable[[], int],
        on_lost: Callable[[Exception], None],
    ) -> None:
        self._log = log
        self._history = history
        self._lookup = lookup
        self._recent = recent
        self._thread = thread
        self._retention_ms = retention_ms
        self._on_lost = on_lost
        self.calls = Gatherer()
        self.blocked: JournalBlocked | None = None
        self._appended: list[AppendedFact] = []  # not written yet
        self._flows: dict[int, Flow] = {}  # flows that the log or the history has, by `id()`
        self._flush: asyncio.Handle | None = None
        self._sync_timer: asyncio.TimerHandle | None = None
        self._closing = asyncio.Event()
        self.durable = _Durable(self)  # see the port
        self._killed = False
        self.loop: asyncio.AbstractEventLoop

    def begin(self) -> None:
        """Remember the running event loop: asking for it each time costs a system call."""
        self.loop = asyncio.get_running_loop()
        self.calls.begin()

    async def run(self) -> None:
        """Write groups until `end` is called, then write the rest and return."""
        is_last = False
        while not is_last or self._has_work():
            group = await self.calls.next_group()
            is_last = self._closing.is_set()
            try:
                await self._check_writable()
                known, found = await self._lookup.existing(group)
                priors = self._write(group, known)
                await self._sync()
                await self._wait_until_files_are_back()
            except JournalBlocked as error:
                self.blocked = error
                self._refuse(group, error)
                await self._pause()
            else:
                self.blocked = None
                group.answer(priors, found)
                self.calls.group_ended()

    def append(self, run: Run, fact: AnyFact, at_ms: int) -> None:
        """Write a fact at the latest at the end of this event loop turn; see the port."""
        self._appended.append((run, (at_ms, fact)))
        if self._flush is None:
            self._flush = self.loop.call_soon(self.write_appended)

    def wait_durable(self) -> asyncio.Future[None]:
        """A future that is done when everything handed in so far is durable."""
        waiter: asyncio.Future[None] = self.loop.create_future()
        self.calls.group.durable.append(waiter)
        self.calls.wake()
        return waiter

    def add_moved_runs(self, body: bytes, updates: RunUpdates) -> None:
        """Write runs that began in another journal. Raises JournalBlocked if none was written."""
        try:
            self._log.put_with_existing_blobs(body)
        except JournalBlocked as error:
            self.block(error)
            raise
        self._recent.current.add_new(updates)

    def write_appended(self) -> None:
        """Write the appended facts; the next sync covers them."""
        self._flush = None
        if self.blocked is not None or self._killed or not self._appended:
            return
        try:
            self._write_facts()
        except JournalBlocked as error:
            self.block(error)
        except Exception as error:  # noqa: BLE001 - any error of the disk
            self._on_lost(error)
        else:
            if self._sync_timer is None:
                self._sync_timer = self.loop.call_later(MAX_UNSYNCED_S, self.calls.wake)

    def write_all_appended(self) -> bool:
        """Write the appended facts; returns whether all of them were written."""
        self.write_appended()
        return not self._appended

    def block(self, error: JournalBlocked) -> None:
        """Refuse new runs, let facts of open runs wait, and try again soon."""
        self.blocked = error
        self.calls.wake()

    def end(self) -> None:
        """Write everything handed in, then stop."""
        self._closing.set()
        self.calls.end()

    def kill(self) -> None:
        """Write nothing more, not even the facts of this event loop turn."""
        self._killed = True
        if self._sync_timer is not None:
            self._sync_timer.cancel()

    # --- a group --------------------------------------------------------------------------------

    def _has_work(self) -> bool:
        return bool(self.calls.group) or (self.blocked is None and bool(self._appended))

    def _write(self, group: Group, known: dict[int, ExistingRun]) -> list[ExistingRun | None]:
        """Write facts and new runs. Returns the existing run for each entry; None: it is new."""
        if self._appended:
            self._write_facts()
        if not group.entries:
            return []
        batch = EntryBatch(self._retention_ms)
        flows: dict[int, Flow] = {}
        priors: list[ExistingRun | None] = []
        for at, (entry, _) in enumerate(group.entries):
            prior = None
            if entry.key is not None:
                # Search `_recent` again: a run may have been moved here since the lookup.
                prior = known.get(at) or self._recent.prior(entry) or batch.prior(entry)
            priors.append(prior)
            if prior is not None:
                batch.add_duplicate(prior.run_id)
                continue
            flow = entry.flow
            if flow is not None and id(flow) not in self._flows and id(flow) not in flows:
                flows[id(flow)] = flow
                batch.add_flow(flow)
            batch.begin(entry)
        self._log.put(*encoded(batch, self._log.new_blob_name))
        batch.add_to(self._recent.current)
        if flows:
            self._remember_flows(flows)
        return priors

    def _write_facts(self) -> None:
        facts = FactBatch(self._appended, self._retention_ms)
        self._log.put(*encoded(facts, self._log.new_blob_name))
        self._appended = []
        facts.add_to(self._recent.current)

    def _remember_flows(self, flows: dict[int, Flow]) -> None:
        if len(self._flows) >= MAX_KNOWN_FLOWS:
            self._flows.clear()
        self._flows |= flows

    async def _sync(self) -> None:
        """Sync the log. Facts that are written during the sync wait for the next one."""
        if self._sync_timer is not None:
            self._sync_timer.cancel()
            self._sync_timer = None
        if self._log.synced < self._log.end:
            await self._thread.run(self._log.sync)

    # --- while the log cannot be written --------------------------------------------------------

    async def _check_writable(self) -> None:
        """Raise JournalBlocked if a write would be lost or would certainly fail."""
        self._check_files()
        if isinstance(self.blocked, JournalFull):
            await self._log.find_room(self._thread)

    def _check_files(self) -> None:
        """Raise JournalMoved if the next start would not find the data that is written now."""
        self._log.check()
        self._history.check()

    async def _wait_until_files_are_back(self) -> None:
        """If the files were moved during the sync of a group, wait until they are back.

        The group is durable. Its calls must not fail, as the next start executes its runs if the
        files are back by then.
        """
        while (moved := self._moved_error()) is not None:
            self.blocked = moved
            if self._closing.is_set():
                raise moved
            self._refuse(self.calls.take(), moved)
            await self._pause()

    def _moved_error(self) -> JournalMoved | None:
        try:
            self._check_files()
        except JournalMoved as moved:
            return moved
        return None

    def _refuse(self, group: Group, error: JournalBlocked) -> None:
        """Fail the calls of a group. Calls that wait for facts continue to wait until `end`."""
        is_last = self._closing.is_set()
        if not is_last:
            self.calls.group.durable += group.durable
        group.refuse(error, durable=is_last)

    async def _pause(self) -> None:
        """Wait, then begin the next try even if no call waits."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._closing.wait(), RETRY_BLOCKED_S)
        self.calls.wake()


class _Durable:
    """An awaitable: waits until everything handed in so far is durable.

    Making it costs nothing: the future is created when it is awaited.
    """

    __slots__ = ("_writer",)

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def __await__(self) -> Generator[Any, None, None]:
        return self._writer.wait_durable().__await__()
