"""Port `Journal`: the facts of runs, appended in order by one process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol

import msgspec

from fractal_rm.domain.facts import AnyFact
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.journal_errors import JournalBlocked
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State


class NewRun(msgspec.Struct, frozen=True, gc=False):
    """A new run, or a dead letter, which never became a run (then ``flow`` is None).

    ``state`` and ``reason`` are those after ``facts``. The run is found by ``key`` until
    ``key_until_ms``; see ``accept``. ``key_until_ms`` and ``retention_ms``, which is now, are times
    of the retention clock (`domain.steady`); ``at_ms`` is wall time.
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


class ExistingRun(msgspec.Struct, frozen=True):
    """The run that has this key already, and the digest of its trigger."""

    run_id: str
    digest: str
    state: State


class AcceptFuture(asyncio.Future[ExistingRun | None]):
    """Done when a new run is durable. It cannot be cancelled, as what is written stays written.

    A task that is cancelled while it awaits this gets its CancelledError when this is done.
    """

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002 - as asyncio calls it
        """Change nothing; returns False."""
        return False

    def abandon(self) -> None:
        """Cancel those that await this: the journal was killed."""
        super().cancel()


class BrokenRun(msgspec.Struct, frozen=True):
    """A run whose facts are undamaged but cannot be applied by this release, and why.

    Only the id, the id of the flow and the time of acceptance of ``run`` are set.
    """

    run: Run
    why: str


class Recovered(msgspec.Struct, frozen=True):
    """The content of a journal when it was opened. ``clean``: its last process ended in order.

    ``newest`` is the id of the last run that did not come from a peer; empty: there is none.
    ``ended_ms`` is when the newest of the ended runs ended, on the retention clock.
    """

    runs: list[Run]
    clean: bool
    newest: str = ""
    ended_ms: int | None = None
    broken: list[BrokenRun] = []

    @property
    def latest_ms(self) -> int | None:
        """The latest time in it: of an end, or else of an acceptance; None: it is empty.

        Runs of a release without a steady clock have wall time, which may be wrong.
        """
        if self.ended_ms is not None:
            return self.ended_ms
        return max((run.steady_ms for run in self.runs), default=None)


class Adopted(msgspec.Struct, frozen=True):
    """The result of adopting a journal of the state folder that no process has open.

    ``found`` are the open runs that were moved into this journal. ``left`` are the ids of the open
    runs that remain there, as far as they can be read, and ``why`` is the reason.
    """

    journal: str
    moved: Recovered
    remaining: list[str] = []
    why: str = ""


class Journal(Protocol):
    """Facts of runs, appended in order. Facts that wait at the same time share one fsync.

    ``accept`` and ``append`` are called on the event loop and never block it.
    ``at_ms`` is the wall clock at the time of the call, correct or not; nothing is decided by it.
    """

    async def open(self) -> Recovered:
        """Lock the journal, verify it, and return all open runs, oldest first.

        Runs that cannot be made of their facts are returned as broken: they can only be closed.

        Raises JournalInUse, JournalReadOnly, JournalBlocked, JournalDamaged, JournalTooNew,
        JournalTooOld.
        """
        ...

    def accept(self, entry: NewRun) -> AcceptFuture:
        """Write a new run. The result is None once it is durable.

        All calls of one turn of the event loop are written together, in order.

        If a run with ``entry.key`` exists, here or in another journal of the state folder, and the
        key has not expired, only a duplicate is counted, and that run is the result. Raises
        JournalBlocked: nothing was written, and the same call may succeed later.
        """
        ...

    async def find(self, key: str, retention_ms: int) -> ExistingRun | None:
        """The run with this key, if the key has not expired at that time. Counts no duplicate."""
        ...

    async def adopt(self) -> list[Adopted]:
        """Move the open runs of other journals that no process has open into this one, durably.

        Whenever a process ends, each run is in exactly one journal. Runs that cannot be moved are
        reported and do not prevent the others. May be called repeatedly: a journal without runs
        to move is skipped until its files change.
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
        """Why nothing can be written; None: writing is possible, as far as is known."""
        ...

    @property
    def damage(self) -> str | None:
        """The damage that was found in past runs so far; None: none. The journal keeps working."""
        ...

    def check(self) -> None:
        """Check now whether the next start will find what is written, and update `blocked`.

        Each write checks this, too. Called on the event loop.
        """
        ...

    async def close(self, *, clean: bool) -> None:
        """Write what was handed in, record how the process ended, and close. May be called twice.

        If that cannot be written, `blocked` has the reason, and the end counts as a crash.
        """
        ...
