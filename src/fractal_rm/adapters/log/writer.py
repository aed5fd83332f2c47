"""The writer: `Writer.run` gathers, looks up, writes, syncs and answers one group after the other.

A group is who waits: with a new run (`Entry`), with a key, or until what came before is durable. It
is answered when the sync that covers it has ended; for a new run or a key, with the run that was
there already (`Prior`).

Facts that nobody waits for are in the system's hands at the end of the turn of the event loop: a
killed process loses none of them, a power cut at most those of the last second.

All runs on the event loop. Two calls are made on ``thread``, and awaited: `History.find`, which has
a connection of its own, and `Log.sync`, beside which facts may be put.

What cannot be written is refused, and tried again every so often whether somebody waits or not,
so that `blocked` says how it stands. Facts wait meanwhile, and who waits for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from fractal_rm.adapters.log.batch import Beginnings, Behind, Facts, encoded
from fractal_rm.adapters.log.group import Group
from fractal_rm.adapters.log.history import Asked, History
from fractal_rm.adapters.log.log import Log
from fractal_rm.adapters.log.others import OtherJournals
from fractal_rm.adapters.log.stories import Recent, Stories
from fractal_rm.adapters.log.threads import Worker
from fractal_rm.domain.errors import JournalBlocked, JournalFull, JournalGone
from fractal_rm.domain.facts import AnyFact
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import Prior

# A group that begins so soon after the one before waits so long for company: a sync costs more than
# most runs do. It waits as long again for a little more. Where nobody came, as one sender waits for
# each answer, the next groups wait for none.
GATHER_S = 0.004
A_FEW = 4
GROUPS_AT_ONCE = 20
UNSYNCED_AT_MOST_S = 1.0
RETRY_BLOCKED_S = 0.5
FLOWS_KNOWN = 1_000


class Writer:
    """Writes one group after the other.

    ``thread`` waits for the disk, ``retention_ms`` is the clock by which history ages, ``lost``
    takes what means that the disk can no longer be trusted.
    """

    def __init__(
        self,
        log: Log,
        history: History,
        others: OtherJournals,
        recent: Recent,
        thread: Worker,
        retention_ms: Callable[[], int],
        lost: Callable[[Exception], None],
    ) -> None:
        self._log = log
        self._history = history
        self._others = others
        self._recent = recent
        self._thread = thread
        self._retention_ms = retention_ms
        self._lost = lost
        self.group = Group()
        self.blocked: JournalBlocked | None = None
        self._behind: list[Behind] = []
        self._flows: dict[int, Flow] = {}  # that the log or the history has, by identity
        self._wanted = asyncio.Event()
        self._ended_s = 0.0  # the group before
        self._at_once = 0  # so many groups wait for no company
        self._flush: asyncio.Handle | None = None
        self._unsynced: asyncio.TimerHandle | None = None
        self._ends = asyncio.Event()
        self.durable = _Durable(self)  # see the port
        self._killed = False
        self.loop: asyncio.AbstractEventLoop

    def begin(self) -> None:
        """Take the event loop that runs: to ask for it each time is a system call."""
        self.loop = asyncio.get_running_loop()

    async def run(self) -> None:
        """Write until `end`, and then what was handed in before."""
        ends = False
        while not ends or self._has_work():
            group = await self._gather()
            ends = self._ends.is_set()
            try:
                await self._check_writable()
                known, found = await self._look_up(group)
                priors = self._put(group, known)
                await self._sync()
                await self._wait_until_found()
            except JournalBlocked as error:
                self.blocked = error
                self._refuse(group, error)
                await self._pause()
            else:
                self.blocked = None
                group.answer(priors, found)
                self._ended_s = self.loop.time()

    def want(self) -> None:
        """`group` has somebody who waits."""
        self._wanted.set()

    def append(self, run: Run, fact: AnyFact, at_ms: int) -> None:
        """Write a fact at the end of this turn of the event loop, at the latest; see the port."""
        self._behind.append((run, (at_ms, fact)))
        if self._flush is None:
            self._flush = self.loop.call_soon(self.write_behind)

    def wait_durable(self) -> asyncio.Future[None]:
        """A future that is done when everything handed in so far is on the disk."""
        waiter: asyncio.Future[None] = self.loop.create_future()
        self.group.durable.append(waiter)
        self.want()
        return waiter

    def take_in(self, body: bytes, stories: Stories) -> None:
        """Write runs that were begun elsewhere. Raises JournalBlocked: nothing was written."""
        try:
            self._log.put_named(body)
        except JournalBlocked as error:
            self.block(error)
            raise
        self._recent.told.take_over(stories)

    def write_behind(self) -> None:
        """Write the facts that were added; they are synced with what comes next."""
        self._flush = None
        if self.blocked is not None or self._killed or not self._behind:
            return
        try:
            self._put_facts()
        except JournalBlocked as error:
            self.block(error)
        except Exception as error:  # noqa: BLE001 - whatever the disk said
            self._lost(error)
        else:
            if self._unsynced is None:
                self._unsynced = self.loop.call_later(UNSYNCED_AT_MOST_S, self.want)

    def tell_all(self) -> bool:
        """Write the facts that were added; whether each run stands as `Recent` tells it."""
        self.write_behind()
        return not self._behind

    def block(self, error: JournalBlocked) -> None:
        """Refuse new runs, let facts of open ones wait, and try whether it is still so."""
        self.blocked = error
        self.want()

    def end(self) -> None:
        """Write what was given, no more."""
        self._ends.set()
        self.want()

    def kill(self) -> None:
        """Write nothing more, not even what waits for the end of this turn."""
        self._killed = True
        if self._unsynced is not None:
            self._unsynced.cancel()

    # --- a group --------------------------------------------------------------------------------

    async def _gather(self) -> Group:
        await self._wanted.wait()
        is_soon = self.loop.time() - self._ended_s < GATHER_S
        if is_soon and self._at_once:
            self._at_once -= 1
        elif is_soon:
            await asyncio.sleep(GATHER_S)
            if len(self.group) < 2:
                self._at_once = GROUPS_AT_ONCE
            elif len(self.group) < A_FEW:
                await asyncio.sleep(GATHER_S)
        if not self._ends.is_set():
            self._wanted.clear()
        group, self.group = self.group, Group()
        return group

    def _has_work(self) -> bool:
        return bool(self.group) or (self.blocked is None and bool(self._behind))

    async def _look_up(self, group: Group) -> tuple[dict[int, Prior], list[Prior | None]]:
        """Runs that are there: under the ids of new ones, by place in the group; and under keys."""
        entries = [at for at, (entry, _) in enumerate(group.entries) if entry.key is not None]
        if not entries and not group.finds:
            return {}, []
        recent = self._recent
        found = [recent.prior(group.entries[at][0]) for at in entries]
        found += [recent.under(key, retention_ms) for key, retention_ms, _ in group.finds]
        asked: list[Asked] = [
            (entry.key, entry.run_id, entry.digest, entry.retention_ms)
            for entry in (group.entries[at][0] for at in entries)
        ]
        asked += [(key, "", "", retention_ms) for key, retention_ms, _ in group.finds]
        missing = [at for at, prior in enumerate(found) if prior is None]
        if missing:
            looking = partial(self._find, [asked[at] for at in missing])
            for at, prior in zip(missing, await self._thread.run(looking), strict=True):
                found[at] = prior and recent.as_it_stands(prior)
        known = {at: prior for at, prior in zip(entries, found, strict=False) if prior is not None}
        return known, found[len(entries) :]

    def _find(self, asked: Sequence[Asked]) -> list[Prior | None]:
        """In this journal's history, or else in the other ones of its folder. On the thread."""
        found = self._history.find(asked)
        missing = [at for at, prior in enumerate(found) if prior is None]
        if missing:
            others = self._others.find([asked[at] for at in missing])
            for at, prior in zip(missing, others, strict=True):
                found[at] = prior
        return found

    def _put(self, group: Group, known: dict[int, Prior]) -> list[Prior | None]:
        """Write all that waits. Returns of each new run which one was there already."""
        if self._behind:
            self._put_facts()
        if not group.entries:
            return []
        batch = Beginnings(self._retention_ms)
        flows: dict[int, Flow] = {}
        priors: list[Prior | None] = []
        for at, (entry, _) in enumerate(group.entries):
            prior = None
            if entry.key is not None:
                # Among those of now, too: a run may have been moved here since it was looked for.
                prior = known.get(at) or self._recent.prior(entry) or batch.prior(entry)
            priors.append(prior)
            if prior is not None:
                batch.repeat(prior.run_id)
                continue
            flow = entry.flow
            if flow is not None and id(flow) not in self._flows and id(flow) not in flows:
                flows[id(flow)] = flow
                batch.add_flow(flow)
            batch.begin(entry)
        self._log.put(*encoded(batch, self._log.new_blob))
        batch.tell(self._recent.told)
        if flows:
            self._keep_known(flows)
        return priors

    def _put_facts(self) -> None:
        facts = Facts(self._behind, self._retention_ms)
        self._log.put(*encoded(facts, self._log.new_blob))
        self._behind = []
        facts.tell(self._recent.told)

    def _keep_known(self, flows: dict[int, Flow]) -> None:
        if len(self._flows) >= FLOWS_KNOWN:
            self._flows.clear()
        self._flows |= flows

    async def _sync(self) -> None:
        """What is written after this has begun waits for the next sync."""
        if self._unsynced is not None:
            self._unsynced.cancel()
            self._unsynced = None
        if self._log.synced < self._log.end:
            await self._thread.run(self._log.sync)

    # --- what cannot be written -----------------------------------------------------------------

    async def _check_writable(self) -> None:
        """Raise JournalBlocked where that is known before anything is written."""
        self._check_found()
        if isinstance(self.blocked, JournalFull):
            await self._log.find_room(self._thread)

    def _check_found(self) -> None:
        """Raise JournalGone where what is written would not be found at the next start."""
        self._log.check()
        self._history.check()

    async def _wait_until_found(self) -> None:
        """Durable, but not where it will be looked for: that is answered when the files are back.

        To refuse it would be wrong as well: it is run when they are back at the next start.
        """
        while (gone := self._gone()) is not None:
            self.blocked = gone
            if self._ends.is_set():
                raise gone
            group, self.group = self.group, Group()
            self._refuse(group, gone)
            await self._pause()

    def _gone(self) -> JournalGone | None:
        try:
            self._check_found()
        except JournalGone as gone:
            return gone
        return None

    def _refuse(self, group: Group, error: JournalBlocked) -> None:
        """What is new. What waits for facts waits on, unless this journal writes no more."""
        ends = self._ends.is_set()
        if not ends:
            self.group.durable += group.durable
        group.refuse(error, durable=ends)

    async def _pause(self) -> None:
        """Before the next try, which comes whether somebody waits for it or not."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._ends.wait(), RETRY_BLOCKED_S)
        self.want()


class _Durable:
    """Done when what was handed in so far is durable; costs nothing where nobody waits."""

    __slots__ = ("_writer",)

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def __await__(self) -> Generator[Any, None, None]:
        return self._writer.wait_durable().__await__()
