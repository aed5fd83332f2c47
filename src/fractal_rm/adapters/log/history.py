"""The interface of the history: the store that the content of the log is copied into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from fractal_rm.adapters.log.run_updates import KeyQuery, RunUpdate, RunUpdates
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import ExistingRun, Recovered


class Projected(NamedTuple):
    """The positions up to which the log was copied into the history.

    The history has everything before ``all``, and all runs that ended before ``ended``. A run that
    begins and ends before it is copied is written into the history only once. So ended runs are
    copied often, and open runs seldom.
    """

    all: int
    ended: int


class History(Protocol):
    """The store of runs for queries. Its methods block, and may raise JournalError."""

    def open(self) -> Projected:
        """Lock and open the history. Returns the positions up to which it has the log."""
        ...

    def recover(self) -> Recovered:
        """The open runs."""
        ...

    def flow_body(self, version: str) -> bytes | None:
        """The JSON of a flow version; None if the history does not have it."""
        ...

    def run_of(self, run_id: str) -> Run | None:
        """The run with the facts that the history has, without its flow.

        None: the history does not have the run, or its facts are invalid.
        """
        ...

    def find(self, queries: Sequence[KeyQuery], /) -> list[ExistingRun | None]:
        """For each query, the run with the key of the query, or else with the id; None: no run.

        May be called on another thread during any other call.
        """
        ...

    def open_ids(self) -> Sequence[str]:
        """The ids of the open runs."""
        ...

    def delete_open(self, run_ids: Sequence[str]) -> None:
        """Delete open runs durably, after they were moved to another journal."""
        ...

    def project(self, updates: RunUpdates, reached: Projected, /) -> None:
        """Write updates, and the positions ``reached`` in the log, in one transaction.

        `begin`, `add` and `commit` do the same in parts, which block the event loop less.
        """
        ...

    def begin(self, updates: RunUpdates, /) -> None:
        """Begin a transaction, and write the updates of runs that the history already has."""
        ...

    def add(self, updates: Sequence[RunUpdate], /) -> None:
        """Add new runs to the transaction. Reads nothing, so it may run on the event loop."""
        ...

    def commit(self, updates: RunUpdates, reached: Projected, /) -> None:
        """Write the other changes and the positions ``reached``, and commit durably."""
        ...

    def purge(self, retention_ms: int) -> None:
        """If a purge is due, delete some of the runs that are too old."""
        ...

    def sweep(self) -> None:
        """Delete blobs that no row refers to. Call it only if the history has all of the log.

        Otherwise, it would delete blobs that only the log refers to.
        """
        ...

    def scrub(self) -> None:
        """Verify the next few rows."""
        ...

    @property
    def damage(self) -> str | None:
        """The damage that was found so far; None: no damage was found."""
        ...

    def check(self) -> None:
        """Raise JournalMoved if the open files are no longer the files at their paths."""
        ...

    def check_lock(self) -> None:
        """Do the same as `check`, and create the lock file again if it was deleted."""
        ...

    def close(self, *, clean: bool) -> None:
        """Record whether the process ends in order (``clean``), then close and unlock."""
        ...

    def abandon(self) -> None:
        """Unlock without recording that the process ended, as after kill -9."""
        ...
