"""The journal: what is handed in is gathered, written, synced, and who waits is woken.

    accept, find, durable ──> group ──> `_write`: look up ids, write, sync, answer
    append ─────────────────> log, behind; the next group syncs it, or a second passes
    log ────────────────────> `_project`: into the history, in batches, beside all that

Facts that nobody waits for are in the system's hands at the end of the turn of the event loop: a
killed process loses none of them, a power cut at most those of the last second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, Union

import msgspec

from fractal_rm.adapters.log import records
from fractal_rm.adapters.log.replay import told_in
from fractal_rm.adapters.log.segments import Log
from fractal_rm.adapters.log.stories import Beginning, Stories, Story, Timed
from fractal_rm.domain.errors import JournalBlocked, JournalError, JournalGone, JournalLost
from fractal_rm.domain.flow import Flow, flow_version
from fractal_rm.domain.run import AnyFact, Dead, Run, Settled
from fractal_rm.engine.ports import Entry, Prior, Recovered

# A group waits for company the longer, the more runs the one before it had: fewer syncs under load,
# and hardly a wait where few come.
GATHER_FOR_EACH_S = 0.00004
GATHER_AT_MOST_S = 0.004
UNSYNCED_AT_MOST_S = 1.0
RETRY_BLOCKED_S = 0.5
PROJECT_EVERY_S = 2.0
PROJECT_BYTES = 1024 * 1024
# So little the wall clock and that of history may stand apart, and count as one.
SAME_MS = 60_000
ENDS = (Settled, Dead)
FLOWS_KNOWN = 1_000


class Worker(Protocol):
    """A thread that does blocking work, one piece after the other."""

    def start(self) -> None:
        """Begin; results go to the loop that runs now."""
        ...

    def end(self) -> None:
        """Wait until all is done."""
        ...

    def run(self, work: Callable[[], Any]) -> Awaitable[Any]:
        """Have work done; returns or raises what it does."""
        ...


Asked = tuple[Union[str, None], str, str, int]  # a key, a run id, a digest, when: see `Entry`


class History(Protocol):
    """The store that the log is brought into. Calls block; they raise JournalError."""

    def open(self) -> int:
        """Take it; returns up to which position of the log it is brought."""
        ...

    def recover(self) -> Recovered:
        """What is open in it."""
        ...

    def run_of(self, run_id: str) -> Run | None:
        """A run without its flow, as it stands in here; None: it cannot be made."""
        ...

    def find(self, asked: Sequence[Asked]) -> list[Prior | None]:
        """The run that has each key, or else the id. May be called beside other calls."""
        ...

    def project(self, stories: Stories, position: int) -> None:
        """Take in what the log tells up to a position, or nothing of it."""
        ...

    def purge(self, retention_ms: int) -> None:
        """Drop some of what is too old, when it is time for that."""
        ...

    def check(self) -> None:
        """Raise JournalGone where it would not be found again."""
        ...

    def look(self) -> None:
        """`check`, and keep what says that it is taken."""
        ...

    def close(self, *, clean: bool) -> None:
        """Note how it ended, and let go."""
        ...

    def let_go(self) -> None:
        """Let go, as a process that ends does."""
        ...


class _Group:
    """What is answered together, by one sync."""

    __slots__ = ("done", "entries", "finds")

    def __init__(self) -> None:
        self.entries: list[tuple[Entry, asyncio.Future[Prior | None]]] = []
        self.finds: list[tuple[str, int, asyncio.Future[Prior | None]]] = []
        self.done: list[asyncio.Future[None]] = []


class LogJournal:
    """Port `Journal`. ``on_lost`` is called where the disk can no longer be trusted (G7).

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
    ) -> None:
        self._log = log
        self._history = history
        self._syncing = worker("journal")
        self._projecting = worker("history")
        self._retention_ms = retention_ms
        self._on_lost = on_lost
        self._group = _Group()
        self._behind: list[tuple[Run, int, AnyFact]] = []
        self._stories = Stories()
        self._leaving = Stories()  # are on their way into the history
        self._projected = 0
        self._flows: dict[int, Flow] = {}  # that the log or the history has, by identity
        self._blocked: JournalBlocked | None = None
        self._closing = self._opened = False
        self._flush: asyncio.Handle | None = None
        self._unsynced: asyncio.TimerHandle | None = None
        self._wanted = asyncio.Event()
        self._full_batch = asyncio.Event()
        self._brought_over: list[asyncio.Future[None]] = []
        self._durable = _Durable(self)
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop

    # --- open and close -----------------------------------------------------------------------

    async def open(self) -> Recovered:
        """Take the journal; see the port."""
        self._loop = asyncio.get_running_loop()
        self._syncing.start()
        self._projecting.start()
        try:
            recovered: Recovered = await self._projecting.run(self._open)
        except BaseException:
            self._syncing.end()
            self._projecting.end()
            raise
        self._opened = True
        self._projected = self._log.end
        self._tasks = [
            self._loop.create_task(self._guarded(self._write())),
            self._loop.create_task(self._guarded(self._project())),
        ]
        return recovered

    def _open(self) -> Recovered:
        """Bring the history up to the end of the log, and read from it which runs are open."""
        position = self._history.open()
        try:
            stories = told_in(self._log.open(position), self._history.run_of)
            self._history.project(stories, self._log.end)
            self._log.release(self._log.end)
            return self._history.recover()
        except BaseException:
            self._history.close(clean=False)
            raise

    async def close(self, *, clean: bool) -> None:
        """Write what was given, let go. While it is blocked, what was given cannot be."""
        if not self._opened:
            return
        self._opened, self._closing = False, True
        self._wanted.set()
        self._full_batch.set()
        await asyncio.gather(*self._tasks)
        clean = clean and self._blocked is None
        try:
            await self._projecting.run(lambda: self._history.close(clean=clean))
        finally:
            self._log.close()
            self._syncing.end()
            self._projecting.end()

    def crash(self) -> None:
        """End as kill -9 does: what the system has is kept, the rest is forgotten."""
        self._opened = False
        for task in self._tasks:
            task.cancel()
        self._syncing.end()
        self._projecting.end()
        self._history.let_go()
        self._log.close()

    # --- the port -----------------------------------------------------------------------------

    def accept(self, entry: Entry) -> asyncio.Future[Prior | None]:
        """Write a new run; see the port."""
        waiter: asyncio.Future[Prior | None] = self._loop.create_future()
        if self._blocked is not None:
            waiter.set_exception(_again(self._blocked))
            return waiter
        self._group.entries.append((entry, waiter))
        self._wanted.set()
        return waiter

    async def find(self, key: str, retention_ms: int) -> Prior | None:
        """Look a key up; see the port."""
        if self._blocked is not None:
            raise _again(self._blocked)
        waiter: asyncio.Future[Prior | None] = self._loop.create_future()
        self._group.finds.append((key, retention_ms, waiter))
        self._wanted.set()
        return await waiter

    def append(self, run: Run, fact: AnyFact, at_ms: int) -> Awaitable[None]:
        """Add a fact; see the port."""
        self._behind.append((run, at_ms, fact))
        if self._flush is None:
            self._flush = self._loop.call_soon(self._write_behind)
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
            self._log.check()
            self._history.look()
        except JournalGone as gone:
            if self._blocked is None:
                self._block(gone)
        except JournalLost as error:
            self._on_lost(error)

    async def bring_over(self) -> None:
        """Return when the history has all that was handed in before, and what is old has gone."""
        self._write_behind()
        waiter = self._loop.create_future()
        self._brought_over.append(waiter)
        self._full_batch.set()
        await waiter

    def wait_durable(self) -> asyncio.Future[None]:
        """A future that is done when everything handed in so far is on the disk."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._group.done.append(waiter)
        self._wanted.set()
        return waiter

    # --- the writer ---------------------------------------------------------------------------

    async def _write(self) -> None:
        """One group after the other, until the journal closes and nobody waits."""
        gather_s = 0.0
        while not (self._closing and not self._has_work()):
            await self._wanted.wait()
            await asyncio.sleep(gather_s)
            self._wanted.clear()
            group, self._group = self._group, _Group()
            try:
                if (gone := self._gone()) is not None:
                    raise gone
                known = await self._known(group)
                answers = self._put(group, known)
                self._covered()
                await self._syncing.run(self._log.sync)
                await self._wait_until_found()
            except JournalBlocked as error:
                self._block(error)
                self._refuse(group, error)
                continue
            self._blocked = None
            self._answer(group, answers)
            gather_s = min(len(group.entries) * GATHER_FOR_EACH_S, GATHER_AT_MOST_S)

    def _has_work(self) -> bool:
        group = self._group
        waits = bool(group.entries or group.finds or group.done)
        return waits or (self._blocked is None and bool(self._behind))

    async def _known(self, group: _Group) -> dict[int, Prior]:
        """Runs that are there already under the ids of new ones, by position in the group."""
        known: dict[int, Prior] = {}
        unknown: dict[int, Entry] = {}
        for at, (entry, _) in enumerate(group.entries):
            if entry.key is None:
                continue
            prior = self._in_memory(entry)
            if prior is not None:
                known[at] = prior
            else:
                unknown[at] = entry
        if unknown:
            asked = [(each.key, each.run_id, each.digest, each.retention_ms)
                     for each in unknown.values()]  # fmt: skip
            found = await self._syncing.run(partial(self._history.find, asked))
            known |= {at: prior for at, prior in zip(unknown, found, strict=True) if prior}
        return known

    def _in_memory(self, entry: Entry) -> Prior | None:
        """As `History.find`, in what is not in the history yet."""
        return self._stories.prior(entry) or self._leaving.prior(entry)

    def _put(self, group: _Group, known: dict[int, Prior]) -> list[Prior | None]:
        """Write a group, and all that waits to be written behind. Returns what is known of each."""
        age_ms = self._retention_ms()
        written: list[Any] = [
            ("end", run.id, (at_ms, fact), ahead_ms)
            if isinstance(fact, ENDS) and (ahead_ms := _ahead_of(at_ms, age_ms))
            else ("fact", run.id, (at_ms, fact))
            for run, at_ms, fact in self._behind
        ]
        begun = Stories()
        answers: list[Prior | None] = []
        again: list[str] = []
        for at, (entry, _) in enumerate(group.entries):
            prior = None
            if entry.key is not None:
                prior = known.get(at) or begun.prior(entry) or self._in_memory(entry)
            answers.append(prior and self._as_it_stands(prior))
            if prior is not None:
                written.append(("again", prior.run_id))
                again.append(prior.run_id)
                continue
            if entry.flow is not None and id(entry.flow) not in self._flows:
                written.append(self._flow_record(entry.flow, begun))
            written.append(_begin(entry, begun, age_ms))
        if written:
            self._log.put(records.encode(written))
        self._take(begun, again, age_ms)
        return answers

    def _take(self, begun: Stories, again: list[str], age_ms: int) -> None:
        """What was put stands in the log: it is on its way into the history."""
        behind, self._behind = self._behind, []
        of = self._stories.of
        for run, at_ms, fact in behind:
            story = of(run.id)
            story.facts.append((at_ms, fact))
            story.run = run
            if isinstance(fact, ENDS):
                story.settled_ms, story.ahead_ms = at_ms, _ahead_of(at_ms, age_ms)
        self._stories.take_over(begun)
        for run_id in again:
            of(run_id).again += 1
        if self._log.end - self._projected >= PROJECT_BYTES:
            self._full_batch.set()

    def _flow_record(self, flow: Flow, begun: Stories) -> tuple[str, str, msgspec.Raw]:
        if len(self._flows) >= FLOWS_KNOWN:
            self._flows.clear()
        self._flows[id(flow)] = flow
        version, body = flow_version(flow), records.encode(flow)
        begun.flows[version] = body
        return "flow", version, msgspec.Raw(body)

    def _as_it_stands(self, prior: Prior) -> Prior:
        """The history may not have its end yet."""
        for stories in (self._stories, self._leaving):
            state = stories.state_of(prior.run_id)
            if state is not None:
                return msgspec.structs.replace(prior, state=state)
        return prior

    def _answer(self, group: _Group, answers: list[Prior | None]) -> None:
        for (_, waiter), prior in zip(group.entries, answers, strict=True):
            if not waiter.done():
                waiter.set_result(prior)
        for waiter in group.done:
            if not waiter.done():
                waiter.set_result(None)
        if group.finds:
            task = self._loop.create_task(self._guarded(self._find(group)))
            self._tasks.append(task)
            task.add_done_callback(self._tasks.remove)

    async def _find(self, group: _Group) -> None:
        asked: list[Asked] = [(key, "", "", retention_ms) for key, retention_ms, _ in group.finds]
        memory = [
            self._stories.under(key, retention_ms) or self._leaving.under(key, retention_ms)
            for key, retention_ms, _ in group.finds
        ]
        found = await self._syncing.run(partial(self._history.find, asked))
        for (*_, waiter), recent, old in zip(group.finds, memory, found, strict=True):
            prior = recent or old
            if not waiter.done():
                waiter.set_result(prior and self._as_it_stands(prior))

    def _write_behind(self) -> None:
        """To the system, at the end of a turn of the loop; synced with what comes next."""
        self._flush = None
        if self._blocked is None and self._behind:
            try:
                self._put(_Group(), {})
            except JournalBlocked as error:
                self._block(error)
            except Exception as error:  # noqa: BLE001 - whatever the disk said
                self._lose(error)
            else:
                if self._unsynced is None:
                    self._unsynced = self._loop.call_later(UNSYNCED_AT_MOST_S, self._wanted.set)

    # --- what cannot be written -----------------------------------------------------------------

    def _covered(self) -> None:
        """The sync that follows covers what was written behind."""
        if self._unsynced is not None:
            self._unsynced.cancel()
            self._unsynced = None

    def _gone(self) -> JournalGone | None:
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
            self._block(gone)
            if self._closing:
                raise gone
            group, self._group = self._group, _Group()
            self._refuse(group, gone)
            await asyncio.sleep(RETRY_BLOCKED_S)

    def _block(self, error: JournalBlocked) -> None:
        """New runs are refused; facts of open runs wait, and what waits for them waits too (G7)."""
        self._blocked = error
        self._full_batch.set()
        self._loop.call_later(RETRY_BLOCKED_S, self._wanted.set)

    def _refuse(self, group: _Group, error: JournalBlocked) -> None:
        """What is new. What waits for facts waits on, unless this journal writes no more."""
        refused: list[asyncio.Future[Any]] = [waiter for _, waiter in group.entries]
        refused += [waiter for *_, waiter in group.finds]
        if self._closing:
            refused += group.done
        else:
            self._group.done += group.done
        for waiter in refused:
            if not waiter.done():
                waiter.set_exception(error)

    async def _guarded(self, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - the top of a task
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        """What the disk holds is unknown (G7). Nothing more is written, whatever waits."""
        self._on_lost(error if isinstance(error, JournalError) else JournalLost(repr(error)))

    # --- into the history -----------------------------------------------------------------------

    async def _project(self) -> None:
        """One batch after the other, until the journal closes."""
        while not (self._closing and not self._stories):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._full_batch.wait(), PROJECT_EVERY_S)
            self._full_batch.clear()
            if self._closing:
                await self._written()
            waiting, self._brought_over = self._brought_over, []
            if self._stories or waiting:
                await self._bring_over()
            for waiter in waiting:
                waiter.set_result(None)

    async def _written(self) -> None:
        """The writer has ended: what is told is all."""
        await self._tasks[0]

    async def _bring_over(self) -> None:
        self._leaving, self._stories = self._stories, Stories()
        self._leaving.catch_up()
        position = self._log.end
        await self._syncing.run(self._log.sync)
        while True:
            try:
                await self._projecting.run(partial(self._history.project, self._leaving, position))
                break
            except JournalBlocked:
                if self._closing:
                    return
                await asyncio.sleep(RETRY_BLOCKED_S)
        self._leaving = Stories()
        self._projected = position
        self._log.release(position)
        with suppress(JournalBlocked):
            await self._projecting.run(partial(self._history.purge, self._retention_ms()))


def _ahead_of(ended_ms: int, age_ms: int) -> int:
    """How far the age of history is ahead of the wall clock: for days, a minute is nothing.

    So it is 0, which takes no room, as long as nobody sets the wall clock.
    """
    ahead_ms = age_ms - ended_ms
    return ahead_ms if abs(ahead_ms) >= SAME_MS else 0


def _begin(entry: Entry, begun: Stories, age_ms: int) -> tuple[Any, ...]:
    """Take a new run; returns its record."""
    facts: list[Timed] = [(entry.at_ms, fact) for fact in entry.facts]
    settled_ms = entry.at_ms if entry.state.final else None
    ahead_ms = 0 if settled_ms is None else _ahead_of(settled_ms, age_ms)
    story = Story(entry.run_id, facts, entry.state, entry.reason, None, settled_ms, ahead_ms)
    flow = entry.flow.id if entry.flow else None
    source = getattr(entry.facts[0], "source", "")
    begun.begin(story, Beginning(
        flow, source, entry.at_ms, entry.key, entry.digest, entry.key_until_ms
    ))  # fmt: skip
    return (
        "run", entry.run_id, flow, entry.key, entry.digest, entry.key_until_ms, facts, ahead_ms
    )  # fmt: skip


def _again(blocked: JournalBlocked) -> JournalBlocked:
    """To be raised: one that is raised again and again keeps every place where it was."""
    return type(blocked)(*blocked.args)


class _Durable:
    """Done when what was handed in so far is durable; costs nothing where nobody waits."""

    __slots__ = ("_journal",)

    def __init__(self, journal: LogJournal) -> None:
        self._journal = journal

    def __await__(self) -> Generator[Any, None, None]:
        return self._journal.wait_durable().__await__()
