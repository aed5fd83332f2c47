"""The journal: facts of runs, appended in order by one process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol

import msgspec

from fractal_rm.domain.errors import JournalBlocked
from fractal_rm.domain.facts import AnyFact
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A new run, or a dead letter that never became one (``flow`` is then None).

    ``state`` and ``reason`` are how it stands after ``facts``. ``key`` with ``digest`` make it
    findable until ``key_until_ms``; see ``accept``. That, and the moment ``retention_ms`` at which
    it is looked for, are on the retention clock (`domain.steady`); ``at_ms`` is wall time.
    """

    run_id: str
    flow: Flow | None
    at_ms: int
    facts: tuple[AnyFact, ...]
    state: State = State.ACCEPTED
    reason: str = ""
    key: str | None = None
    digest: str = ""
    key_until_ms: int = 0
    retention_ms: int = 0


class Prior(msgspec.Struct, frozen=True):
    """The run that has this key already."""

    run_id: str
    digest: str
    state: State


class Written(asyncio.Future[Prior | None]):
    """Done when a new run is durable. It cannot be cancelled, as what is written stays written.

    A task that is cancelled while it awaits this gets its CancelledError when this is done.
    """

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002 - as asyncio calls it
        """Nothing changes; returns False."""
        return False

    def abandon(self) -> None:
        """The journal was killed: whoever awaits this is cancelled."""
        super().cancel()


class BrokenRun(msgspec.Struct, frozen=True):
    """A run whose facts hold and still make no run of this release, and why.

    Of ``run`` the id, the flow's id and the time of acceptance are known, no more.
    """

    run: Run
    why: str


class Recovered(msgspec.Struct, frozen=True):
    """What a journal held when it was opened. ``clean``: its last process ended in order.

    ``newest`` is the id of the last run that was not handed over by a peer; empty: there is none.
    ``ended_ms``: when the newest run that has an end ended, on the retention clock.
    """

    runs: list[Run]
    clean: bool
    newest: str = ""
    ended_ms: int | None = None
    broken: list[BrokenRun] = []

    @property
    def latest_ms(self) -> int | None:
        """The latest moment of which it tells: an end, or else an acceptance; None: it is empty.

        Runs that a release without a steady clock accepted have wall time, which may be wrong.
        """
        if self.ended_ms is not None:
            return self.ended_ms
        return max((run.steady_ms for run in self.runs), default=None)


class Adopted(msgspec.Struct, frozen=True):
    """What came of a journal of the state folder that no process holds.

    ``found`` are open runs that are in our own journal now. ``left`` are the ids of those that stay
    there, as far as they can be read, and ``why``.
    """

    journal: str
    found: Recovered
    left: list[str] = []
    why: str = ""


class Journal(Protocol):
    """Facts of runs, appended in order. Facts that wait at the same time share one fsync.

    ``accept`` and ``append`` are called on the event loop and never block it.
    ``at_ms`` is the wall clock at the time of the call, correct or not; nothing is decided by it.
    """

    async def open(self) -> Recovered:
        """Take the journal, verify it, and return every run without an end, oldest first.

        A run that cannot be made of its facts is among the broken ones: it can be closed.

        Raises JournalInUse, JournalReadOnly, JournalBlocked, JournalDamaged, JournalTooNew,
        JournalTooOld.
        """
        ...

    def accept(self, entry: Entry) -> Written:
        """Write a new run. Done with None once it is durable.

        What is handed in during one turn of the event loop is done together, in order.

        Where ``entry.key`` is known, here or in a journal beside it, and its time has not ended,
        nothing is written but the count of duplicates, and the run that has it is returned.
        Raises JournalBlocked: nothing was written, and the same call may succeed later.
        """
        ...

    async def find(self, key: str, retention_ms: int) -> Prior | None:
        """The run that has this key, if its time has not ended by then. Counts nothing."""
        ...

    async def adopt(self) -> list[Adopted]:
        """Move the open runs of journals beside it that no process holds, durably, into this one.

        Each run is in one of them whenever a process ends. One that cannot be taken is said; it
        keeps nothing else from going on. May be called again and again: what was looked through is
        not looked at again until it has changed.
        """
        ...

    def append(self, run: Run, fact: AnyFact, at_ms: int) -> None:
        """Add a fact that was just applied to an open run. It becomes durable later.

        A killed process loses none of the facts of earlier turns of the event loop, a power loss
        at most those of the last second. While the journal is blocked, facts wait.
        """
        ...

    @property
    def durable(self) -> Awaitable[None]:
        """Await it to wait until all facts that were appended before are durable.

        Raises JournalBlocked: the journal was closed while it could not write.
        """
        ...

    @property
    def blocked(self) -> JournalBlocked | None:
        """Why nothing can be written; None: it can, as far as is known."""
        ...

    @property
    def damage(self) -> str | None:
        """What is damaged in what it keeps of the past, as far as it has looked; None: nothing.

        It goes on all the same.
        """
        ...

    def look(self) -> None:
        """Find out now whether what is written will be found at the next start: see `blocked`.

        Each write looks as well, and is done only where that is so. Called on the event loop.
        """
        ...

    async def close(self, *, clean: bool) -> None:
        """Write what was given, mark how it ended, let go. May be called twice.

        Where that cannot be written, `blocked` says why, and the end counts as a crash.
        """
        ...
