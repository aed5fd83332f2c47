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
    """A new run, or a dead letter (then ``flow`` is None).

    ``state`` and ``reason`` are those of the run after ``facts``. `Journal.accept` finds the run by
    ``key`` until ``key_until_ms``. ``at_ms`` is the wall time now. ``retention_ms`` is the time now
    on the retention clock (`domain.steady`), and ``key_until_ms`` is a time on the same clock.
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
    """The run that already has the key of a new trigger. ``digest`` is that of its trigger."""

    run_id: str
    digest: str
    state: State


class JournalSizes(msgspec.Struct, frozen=True):
    """``total_bytes``: all files of the journal. ``unprojected_bytes``: the history lacks them."""

    total_bytes: int
    unprojected_bytes: int


class AcceptFuture(asyncio.Future[ExistingRun | None]):
    """A future that is done when a new run is durable. Like the write, it cannot be cancelled.

    A task that is cancelled while it awaits the future gets CancelledError when the future is done.
    """

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002 - as asyncio calls it
        """Do nothing, and return False."""
        return False

    def abandon(self) -> None:
        """Cancel the future although `cancel` does nothing: the journal was killed."""
        super().cancel()


class BrokenRun(msgspec.Struct, frozen=True):
    """A run with undamaged facts that this release cannot apply. ``why`` is the reason.

    Only the id, the flow id and the time of acceptance of ``run`` are set.
    """

    run: Run
    why: str


class Recovered(msgspec.Struct, frozen=True):
    """The content of a journal when it was opened.

    ``clean``: the last process that had the journal open did not crash. ``newest_run_id`` is the id
    of the newest run that did not come from a peer, or empty. ``ended_ms`` is the time on the
    retention clock when the last run ended.
    """

    runs: list[Run]
    clean: bool
    newest_run_id: str = ""
    ended_ms: int | None = None
    broken: list[BrokenRun] = []

    @property
    def latest_ms(self) -> int | None:
        """When the last run ended. If no run has ended, when the last open run was accepted.

        It is None if there are no runs. Runs of releases without a steady clock have a wall time,
        which may be wrong.
        """
        if self.ended_ms is not None:
            return self.ended_ms
        return max((run.steady_ms for run in self.runs), default=None)


class Adopted(msgspec.Struct, frozen=True):
    """The result of adopting another journal of the state folder, which no process has open.

    ``moved`` has the open runs that were moved into this node's journal. ``remaining`` has the ids
    of the readable open runs that were not moved, and ``why`` is the reason.
    """

    journal: str
    moved: Recovered
    remaining: list[str] = []
    why: str = ""


class Journal(Protocol):
    """Facts of runs, appended in order. Facts that wait to be written share one fsync.

    ``accept`` and ``append`` are called on the event loop and never block it. ``at_ms`` is the wall
    time of the call, which is stored for people; the journal does not use it for decisions.
    """

    async def open(self) -> Recovered:
        """Lock the journal, verify it, and return all open runs, oldest first.

        A run whose facts cannot be applied is returned as a `BrokenRun`, which cannot continue.

        Raises JournalInUse, JournalReadOnly, JournalBlocked, JournalDamaged, JournalTooNew,
        JournalTooOld.
        """
        ...

    def accept(self, entry: NewRun) -> AcceptFuture:
        """Write a new run. The result is None when the run is durable.

        All calls of one turn of the event loop are written together, in order.

        If a run with ``entry.key`` exists in any journal of the state folder, and the key has not
        expired, no run is written. Then a duplicate is counted, and the result is the existing run.
        Raises JournalBlocked if nothing was written; the same call may succeed later.
        """
        ...

    async def find(
        self, key: str, retention_ms: int, run_id: str = "", digest: str = ""
    ) -> ExistingRun | None:
        """Return the run with this key, unless the key has expired at ``retention_ms``.

        If there is none, return the run with the id ``run_id``; its ``digest`` is the given one.
        Does not count a duplicate.
        """
        ...

    async def adopt(self) -> list[Adopted]:
        """Move open runs durably into this journal from journals that no process has open.

        After a crash during the move, each run is in exactly one journal. Runs that cannot be moved
        are reported, and all other runs are moved. May be called repeatedly: a journal without runs
        to move is skipped until its files change.
        """
        ...

    def append(self, run: Run, fact: AnyFact, at_ms: int) -> None:
        """Add a fact that was just applied to an open run. It becomes durable later.

        If the process is killed, no fact of an earlier turn of the event loop is lost. A power loss
        loses at most the facts of the last second. While the journal is blocked, facts wait.
        """
        ...

    @property
    def durable(self) -> Awaitable[None]:
        """An awaitable that completes when all facts appended so far are durable.

        Raises JournalBlocked if the journal is closed while it cannot write.
        """
        ...

    async def sizes(self) -> JournalSizes:
        """How large the journal is. The size of all files may be half a minute old."""
        ...

    @property
    def blocked(self) -> JournalBlocked | None:
        """The reason why nothing can be written, or None if no such reason is known."""
        ...

    @property
    def damage(self) -> str | None:
        """The damage found in past runs, or None. New runs and facts are still accepted."""
        ...

    def check(self) -> None:
        """Check that the next start will find the written facts, and update `blocked`.

        Each write makes the same check. Call this method on the event loop.
        """
        ...

    async def close(self, *, clean: bool) -> None:
        """Write all waiting facts, record how the process ended, and close. May be called twice.

        If the facts cannot be written, `blocked` has the reason, and the end counts as a crash.
        """
        ...
