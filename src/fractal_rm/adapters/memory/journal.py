"""A journal in memory. Its durable content is a separate object, which survives a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import msgspec

from fractal_rm.domain.facts import AnyFact
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.journal_errors import JournalBlocked, JournalFull, JournalInUse, JournalMoved
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import State
from fractal_rm.domain.transitions import next_state
from fractal_rm.engine.ports import (
    AcceptFuture,
    Adopted,
    Counting,
    ExistingRun,
    JournalSizes,
    NewRun,
    Recovered,
    TimedFact,
)


class _StoredRun(msgspec.Struct):
    """The durable record of a run."""

    flow: Flow  # an empty flow for a dead letter
    facts: list[TimedFact]
    state: State = State.NEW


_NO_FLOW = Flow("")


class JournalContent:
    """The durable content of a journal. To simulate a restart, pass it to the next journal.

    ``others`` are the contents of the other journals of the state folder.
    """

    def __init__(self) -> None:
        self.others: list[JournalContent] = []
        self.name = "memory"
        self.runs: dict[str, _StoredRun] = {}
        self.keys: dict[str, tuple[str, str, int]] = {}  # by key: run id, digest, key_until_ms
        self.duplicates: dict[str, int] = {}  # by run id: number of duplicates
        self.newest_run_id = ""  # the id of the newest run that was not offered by a peer
        self.clean = True
        self.owner: object | None = None  # the journal that has this content open

    def facts(self, run_id: str) -> list[AnyFact]:
        """The facts of a run, in order."""
        return [timed.fact for timed in self.runs[run_id].facts]


class MemoryJournal:
    """Port `Journal`. A write is durable one turn of the event loop later.

    ``full`` simulates a full disk. ``away`` simulates moved files. `crash` simulates a power loss:
    data that is not durable is lost. If ``writes_left`` is a number, the journal crashes by itself
    after that many writes. It sets ``ended``, and from then on it writes nothing and answers no
    call, except calls that wait for the last write if ``confirms_last_write`` is true.
    """

    def __init__(self, disk: JournalContent | None = None) -> None:
        self.disk = disk or JournalContent()
        self.full = self.away = False
        self.writes_left: int | None = None
        self.confirms_last_write = True
        self.ended = asyncio.Event()
        self.counting = Counting()
        self._appended: list[tuple[Run, TimedFact]] = []
        self._flushed: asyncio.Future[None] | None = None
        self._unanswered: set[AcceptFuture] = set()

    async def open(self) -> Recovered:
        """Open the journal; see the port."""
        if self.disk.owner is not None:
            raise JournalInUse("another journal has this content open")
        self.disk.owner = self
        runs = [
            _run_from(run_id, stored)
            for run_id, stored in self.disk.runs.items()
            if not stored.state.final
        ]
        clean, self.disk.clean = self.disk.clean, False
        return Recovered(runs, clean, self.disk.newest_run_id)

    def accept(self, entry: NewRun) -> AcceptFuture:
        """Write a new run; see the port."""
        answer = AcceptFuture()
        self._unanswered.add(answer)
        asyncio.get_running_loop().call_soon(self._answer, entry, answer)
        return answer

    def _answer(self, entry: NewRun, answer: AcceptFuture) -> None:
        if self.disk.owner is not self or not self._count_write():
            return
        if self.blocked is not None:
            self._unanswered.discard(answer)
            answer.set_exception(self.blocked)
            return
        existing = self._accept(entry)
        if self._may_answer():
            self._unanswered.discard(answer)
            answer.set_result(existing)

    def _accept(self, entry: NewRun) -> ExistingRun | None:
        existing = self._find(entry.key, entry.retention_ms) if entry.key is not None else None
        existing = existing or self._with_id(entry.run_id, entry.digest)
        if existing is not None:
            duplicates = self.disk.duplicates
            duplicates[existing.run_id] = duplicates.get(existing.run_id, 0) + 1
            return existing
        stored = self.disk.runs[entry.run_id] = _StoredRun(entry.flow or _NO_FLOW, [])
        for fact in entry.facts:
            _add_fact(stored, TimedFact(entry.at_ms, fact))
        if getattr(entry.facts[0], "source", "") != "peer":
            self.disk.newest_run_id = entry.run_id
        if entry.key is not None:
            self.disk.keys[entry.key] = entry.run_id, entry.digest, entry.key_until_ms
        return None

    async def adopt(self) -> list[Adopted]:
        """Move open runs from the other contents to this one; see the port."""
        await self._turn()
        return [
            Adopted(other.name, self._moved_from(other))
            for other in self.disk.others
            if other.owner is None and any(not stored.state.final for stored in other.runs.values())
        ]

    def _moved_from(self, other: JournalContent) -> Recovered:
        run_ids = [run_id for run_id, stored in other.runs.items() if not stored.state.final]
        moved = {run_id: other.runs.pop(run_id) for run_id in run_ids}
        moved_keys = {
            key: (run_id, digest, key_until_ms)
            for key, (run_id, digest, key_until_ms) in other.keys.items()
            if run_id in moved
        }
        for key in moved_keys:
            del other.keys[key]
        new = {run_id: stored for run_id, stored in moved.items() if run_id not in self.disk.runs}
        self.disk.runs |= new
        self.disk.keys = moved_keys | self.disk.keys
        return Recovered([_run_from(run_id, stored) for run_id, stored in new.items()], other.clean)

    async def find(
        self, key: str, retention_ms: int, run_id: str = "", digest: str = ""
    ) -> ExistingRun | None:
        """Look a key or a run up; see the port."""
        await self._turn()
        return self._find(key, retention_ms) or self._with_id(run_id, digest)

    def append(self, run: Run, fact: AnyFact, at_ms: int) -> None:
        """Add a fact; see the port."""
        self._appended.append((run, TimedFact(at_ms, fact)))
        loop = asyncio.get_running_loop()
        if self._flushed is None or self._flushed.done():
            self._flushed = loop.create_future()
            loop.call_soon(self._flush)

    @property
    def durable(self) -> Awaitable[None]:
        """Wait until the appended facts are durable; see the port."""
        return asyncio.sleep(0) if self._flushed is None else asyncio.shield(self._flushed)

    damage = None  # the content cannot be damaged

    async def sizes(self) -> JournalSizes:
        """Return zeros: a journal in memory has no files."""
        return JournalSizes(0, 0)

    @property
    def blocked(self) -> JournalBlocked | None:
        """JournalFull while ``full`` is set, JournalMoved while ``away`` is set."""
        if self.away:
            return JournalMoved("the memory journal was moved away")
        return JournalFull("the memory journal is set to full") if self.full else None

    def check(self) -> None:
        """Do nothing: `blocked` already reports moved files."""

    async def close(self, *, clean: bool) -> None:
        """Close the journal; see the port."""
        if self.disk.owner is not self:
            return
        blocked = self.blocked
        if blocked is None:
            self._flush()
        elif self._flushed is not None and not self._flushed.done():
            self._flushed.set_exception(blocked)
        self.disk.clean = clean and blocked is None
        self.disk.owner = None

    def crash(self) -> None:
        """Simulate a power loss. Calls that wait for a write are never answered."""
        self._appended.clear()
        self.disk.owner = None
        for future in self._unanswered:
            future.abandon()

    def _find(self, key: str, retention_ms: int) -> ExistingRun | None:
        for disk in (self.disk, *self.disk.others):
            run_id, digest, until_ms = disk.keys.get(key, ("", "", 0))
            if until_ms > retention_ms:
                return ExistingRun(run_id, digest, disk.runs[run_id].state)
        return None

    def _with_id(self, run_id: str, digest: str) -> ExistingRun | None:
        for disk in (self.disk, *self.disk.others):
            if run_id in disk.runs:
                return ExistingRun(run_id, digest, disk.runs[run_id].state)
        return None

    async def _turn(self) -> None:
        await asyncio.sleep(0)
        if self.disk.owner is not self:  # the journal has crashed, so no call is answered
            await _never()
        if self.blocked is not None:
            raise self.blocked

    def _count_write(self) -> bool:
        """Count a write. Returns false if the journal has crashed: no write is left."""
        if self.writes_left is None:
            return True
        if self.writes_left == 0:
            return False
        self.writes_left -= 1
        if self.writes_left == 0:
            self.ended.set()
        return True

    def _may_answer(self) -> bool:
        return self.confirms_last_write or self.writes_left != 0

    def _flush(self) -> None:
        if self.disk.owner is not self or not self._count_write():
            return
        if self.blocked is not None:
            asyncio.get_running_loop().call_later(0.01, self._flush)
            return
        self._write_appended()
        if self._flushed is not None and not self._flushed.done() and self._may_answer():
            self._flushed.set_result(None)

    def _write_appended(self) -> None:
        if self.disk.owner is self:
            for run, timed in self._appended:
                _add_fact(self.disk.runs[run.id], timed)
            for count in self.counting.facts:
                count([(run, (each.at_ms, each.fact)) for run, each in self._appended])
        self._appended.clear()


async def _never() -> None:
    """Wait forever."""
    await asyncio.Event().wait()


def _add_fact(stored: _StoredRun, timed: TimedFact) -> None:
    stored.state = next_state(stored.state, timed.fact)
    stored.facts.append(timed)


def _run_from(run_id: str, stored: _StoredRun) -> Run:
    run = Run(run_id, stored.flow, stored.facts[0].at_ms)
    return fold(run, [timed.fact for timed in stored.facts])
