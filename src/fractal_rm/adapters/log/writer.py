"""The writer: what is handed in is gathered, looked up, written, synced, and who waits is woken.

Facts that nobody waits for are in the system's hands at the end of the turn of the event loop: a
killed process loses none of them, a power cut at most those of the last second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from fractal_rm.adapters.log import records
from fractal_rm.adapters.log.adoption import records_of
from fractal_rm.adapters.log.batch import Batch, Behind
from fractal_rm.adapters.log.group import Group
from fractal_rm.adapters.log.history import Asked, History
from fractal_rm.adapters.log.log import Log
from fractal_rm.adapters.log.others import OtherJournals
from fractal_rm.adapters.log.stories import Recent, Stories
from fractal_rm.adapters.log.threads import Worker
from fractal_rm.domain.errors import JournalBlocked, JournalGone
from fractal_rm.domain.flow import Flow
from fractal_rm.engine.ports import Prior

# A group waits for company the longer, the more runs the one before it had: fewer syncs under load,
# and hardly a wait where few come.
GATHER_FOR_EACH_S = 0.00004
GATHER_AT_MOST_S = 0.004
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
        self._gather_s = 0.0
        self._flush: asyncio.Handle | None = None
        self._unsynced: asyncio.TimerHandle | None = None
        self._ends = False

    async def run(self) -> None:
        """Write until `end`, and until nobody waits then."""
        while not (self._ends and not self._has_work()):
            group = await self._gather()
            try:
                if (gone := self._gone()) is not None:
                    raise gone
                known, found = await self._look_up(group)
                priors = self._put(group, known)
                await self._sync()
                await self._wait_until_found()
            except JournalBlocked as error:
                self.block(error)
                self._refuse(group, error)
            else:
                self.blocked = None
                group.answer(priors, found)

    def want(self) -> None:
        """`group` has somebody who waits."""
        self._wanted.set()

    def add(self, fact: Behind) -> None:
        """Write a fact at the end of this turn of the loop."""
        self._behind.append(fact)
        if self._flush is None:
            self._flush = asyncio.get_running_loop().call_soon(self.write_behind)

    def take_in(self, stories: Stories) -> None:
        """Write runs that were begun elsewhere. Raises JournalBlocked: nothing was written."""
        try:
            self._log.put(records.encode(records_of(stories)))
        except JournalBlocked as error:
            self.block(error)
            raise
        self._recent.told.take_over(stories)

    def write_behind(self) -> None:
        """Write the facts that were added; they are synced with what comes next."""
        self._flush = None
        if self.blocked is not None or not self._behind:
            return
        try:
            self._put(Group(), {})
        except JournalBlocked as error:
            self.block(error)
        except Exception as error:  # noqa: BLE001 - whatever the disk said
            self._lost(error)
        else:
            if self._unsynced is None:
                loop = asyncio.get_running_loop()
                self._unsynced = loop.call_later(UNSYNCED_AT_MOST_S, self.want)

    def end(self) -> None:
        """Write what was given, no more."""
        self._ends = True
        self.want()

    # --- a group --------------------------------------------------------------------------------

    async def _gather(self) -> Group:
        await self._wanted.wait()
        await asyncio.sleep(self._gather_s)
        self._wanted.clear()
        group, self.group = self.group, Group()
        self._gather_s = min(len(group.entries) * GATHER_FOR_EACH_S, GATHER_AT_MOST_S)
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
        """Write a group, and all that waits to be written behind. Returns what is known of each."""
        batch = Batch(self._behind, self._retention_ms())
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
        if batch.records:
            self._log.put(records.encode(batch.records))
            self._behind = []
            batch.tell(self._recent.told)
            if len(self._flows) >= FLOWS_KNOWN:
                self._flows.clear()
            self._flows |= flows
        return priors

    async def _sync(self) -> None:
        """What is written after this has begun waits for the next sync."""
        if self._unsynced is not None:
            self._unsynced.cancel()
            self._unsynced = None
        if self._log.synced < self._log.end:
            await self._thread.run(self._log.sync)

    # --- what cannot be written -----------------------------------------------------------------

    def _gone(self) -> JournalGone | None:
        """Why what is written would not be found at the next start; None: it would."""
        try:
            self._log.check()
            self._history.check()
        except JournalGone as gone:
            return gone
        return None

    async def _wait_until_found(self) -> None:
        """Durable, but not where it will be looked for: that is answered when the files are back.

        To refuse it would be wrong as well: it is run when they are back at the next start.
        """
        while (gone := self._gone()) is not None:
            self.block(gone)
            if self._ends:
                raise gone
            group, self.group = self.group, Group()
            self._refuse(group, gone)
            await asyncio.sleep(RETRY_BLOCKED_S)

    def block(self, error: JournalBlocked) -> None:
        """New runs are refused; facts of open runs wait, and what waits for them waits too."""
        self.blocked = error
        asyncio.get_running_loop().call_later(RETRY_BLOCKED_S, self.want)

    def _refuse(self, group: Group, error: JournalBlocked) -> None:
        """What is new. What waits for facts waits on, unless this journal writes no more."""
        if not self._ends:
            self.group.durable += group.durable
        group.refuse(error, durable=self._ends)
