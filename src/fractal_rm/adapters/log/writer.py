"""The writer: writes new runs and facts to the log, and answers the calls that wait for them.

Waiting calls are handled in groups, one group after the other (`Writer.run`): gather the calls,
look up their keys, write, sync, answer. A call has a new run (`NewRun`), or a key to find, or waits
until earlier writes are durable. If a run with the same key or id existed already, the answer is
that run (`ExistingRun`).

Facts that no call waits for are written by `FactWriter`; the sync of the next group covers them.

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

from fractal_rm.adapters.log.batch import EntryBatch
from fractal_rm.adapters.log.fact_writer import FactWriter
from fractal_rm.adapters.log.gather import Gatherer
from fractal_rm.adapters.log.group import Group
from fractal_rm.adapters.log.history import History
from fractal_rm.adapters.log.lookup import Lookup
from fractal_rm.adapters.log.output import Output
from fractal_rm.adapters.log.run_updates import RunUpdates, query_for
from fractal_rm.adapters.log.threads import Worker
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.journal_errors import JournalBlocked, JournalFull, JournalMoved
from fractal_rm.engine.ports import Counting, ExistingRun

RETRY_BLOCKED_S = 0.5
MAX_KNOWN_FLOWS = 1_000


class Writer:
    """Writes groups of calls to the log, one after the other.

    `LogJournal.accept` and `LogJournal.find` add calls to ``calls.group``. ``thread`` runs the
    calls that wait for the disk. `FactWriter` reports to ``on_lost`` an error after which the
    content of the disk is unknown; an error of a sync is raised by `run`.
    """

    def __init__(
        self,
        output: Output,
        history: History,
        lookup: Lookup,
        thread: Worker,
        on_lost: Callable[[Exception], None],
        counting: Counting,
    ) -> None:
        self.calls = Gatherer()
        self._counting = counting
        self.facts = FactWriter(output, self.calls.wake, on_lost, counting)
        self.durable = _Durable(self)  # see the port
        self._output = output
        self._history = history
        self._lookup = lookup
        self._thread = thread
        # Flows that the log or the history has, by `id()`: no other flow can get the id of a flow
        # that is in this dictionary.
        self._flows: dict[int, Flow] = {}
        self._closing = asyncio.Event()
        self.loop: asyncio.AbstractEventLoop

    def begin(self) -> None:
        """Remember the running event loop: asking for it each time costs a system call."""
        self.loop = asyncio.get_running_loop()
        self.calls.begin()
        self.facts.begin()

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
                self._output.blocked = error
                self._refuse(group, error)
                await self._pause()
            else:
                self._output.blocked = None
                group.answer(priors, found)
                self.calls.group_ended()

    def wait_durable(self) -> asyncio.Future[None]:
        """A future that is done when everything handed in so far is durable."""
        waiter: asyncio.Future[None] = self.loop.create_future()
        self.calls.group.durable.append(waiter)
        self.calls.wake()
        return waiter

    def add_moved_runs(self, body: bytes, updates: RunUpdates) -> None:
        """Write runs that began in another journal. Raises JournalBlocked if none was written."""
        try:
            self._output.write_moved_runs(body, updates)
        except JournalBlocked as error:
            self.block(error)
            raise

    def block(self, error: JournalBlocked) -> None:
        """Refuse new runs, let facts of open runs wait, and try again soon."""
        self._output.blocked = error
        self.calls.wake()

    def end(self) -> None:
        """Write everything handed in, then stop."""
        self._closing.set()
        self.calls.end()

    # --- a group --------------------------------------------------------------------------------

    def _has_work(self) -> bool:
        return bool(self.calls.group) or (self._output.blocked is None and bool(self.facts))

    def _write(self, group: Group, known: dict[int, ExistingRun]) -> list[ExistingRun | None]:
        """Write facts and new runs. Returns the existing run for each entry; None: it is new."""
        self.facts.write()
        if not group.entries:
            return []
        recent = self._output.recent
        batch = EntryBatch(self._output.retention_ms)
        flows: dict[int, Flow] = {}
        priors: list[ExistingRun | None] = []
        for at, (entry, _) in enumerate(group.entries):
            prior = None
            if entry.key is not None:
                # Search `recent` again: a run may have been moved here since the lookup.
                query = query_for(entry)
                prior = known.get(at) or recent.existing_for(query) or batch.existing_for(query)
            priors.append(prior)
            if prior is not None:
                batch.add_duplicate(prior.run_id)
                continue
            flow = entry.flow
            if flow is not None and id(flow) not in self._flows and id(flow) not in flows:
                flows[id(flow)] = flow
                batch.add_flow(flow)
            batch.begin(entry)
        self._output.write(batch)
        if flows:
            self._remember_flows(flows)
        return priors

    def _remember_flows(self, flows: dict[int, Flow]) -> None:
        if len(self._flows) >= MAX_KNOWN_FLOWS:
            self._flows.clear()
        self._flows |= flows

    async def _sync(self) -> None:
        """Sync the log. Facts that are written during the sync wait for the next one."""
        self.facts.sync_begins()
        log = self._output.log
        if log.synced < log.end:
            began_s = self.loop.time()
            await self._thread.run(log.sync)
            if self._counting.synced is not None:
                self._counting.synced(self.loop.time() - began_s)

    # --- while the log cannot be written --------------------------------------------------------

    async def _check_writable(self) -> None:
        """Raise JournalBlocked if a write would be lost or would certainly fail."""
        self._check_files()
        if isinstance(self._output.blocked, JournalFull):
            await self._output.log.find_room(self._thread)

    def _check_files(self) -> None:
        """Raise JournalMoved if the next start would not find the data that is written now."""
        self._output.log.check()
        self._history.check()

    async def _wait_until_files_are_back(self) -> None:
        """If the files were moved during the sync of a group, wait until they are back.

        The group is durable, so its calls wait: if the files are back at the next start, its runs
        are executed. The calls fail only if the journal is closed before the files are back. Calls
        that arrive during the wait are refused.
        """
        while (moved := self._moved_error()) is not None:
            self._output.blocked = moved
            if self._closing.is_set():
                raise moved
            newer_group = self.calls.take()
            self._refuse(newer_group, moved)
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
        group.refuse(error, also_durable=is_last)

    async def _pause(self) -> None:
        """Wait, then begin the next try even if no call waits."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._closing.wait(), RETRY_BLOCKED_S)
        self.calls.wake()


class _Durable:
    """An awaitable: waits until everything that was handed in before the ``await`` is durable.

    One object serves all callers: the future is created at each ``await``.
    """

    __slots__ = ("_writer",)

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def __await__(self) -> Generator[Any, None, None]:
        return self._writer.wait_durable().__await__()
