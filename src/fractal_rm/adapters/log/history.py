"""The history: the store that the log is copied into, as the log needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, Union

from fractal_rm.adapters.log.run_updates import RunUpdate, RunUpdates
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import ExistingRun, Recovered

KeyQuery = tuple[Union[str, None], str, str, int]  # key, run id, digest, retention_ms: see `NewRun`


class Projected(NamedTuple):
    """The positions of the log up to which the history has ``all`` of it, and all ``ended`` runs.

    A run that begins and ends between two projections is written into the history once. So ended
    runs are copied often and open runs seldom.
    """

    all: int
    ended: int


class History(Protocol):
    """Calls block and raise JournalError."""

    def open(self) -> Projected:
        """Lock and open it; returns how far it has the log."""
        ...

    def recover(self) -> Recovered:
        """Its open runs."""
        ...

    def run_of(self, run_id: str) -> Run | None:
        """A run without its flow, made of its facts in here; None: no run can be made of them."""
        ...

    def find(self, queries: Sequence[KeyQuery]) -> list[ExistingRun | None]:
        """The run with each key, or else with each id. Safe to call at the same time as others."""
        ...

    def open_ids(self) -> Sequence[str]:
        """The ids of the open runs."""
        ...

    def delete_open(self, run_ids: Sequence[str]) -> None:
        """Delete open runs durably: another journal has them now."""
        ...

    def project(self, updates: RunUpdates, reached: Projected) -> None:
        """Write these updates and the position that they reach, in one transaction.

        The same in parts, so as not to block the event loop for long: `begin`, `add`, `commit`.
        """
        ...

    def begin(self, updates: RunUpdates) -> None:
        """Begin a transaction with the updates of runs that it has."""
        ...

    def add(self, updates: Sequence[RunUpdate]) -> None:
        """Add some new runs. Reads nothing, so it may be called on the event loop."""
        ...

    def commit(self, updates: RunUpdates, reached: Projected) -> None:
        """Write the rest and the position reached, and commit; durable."""
        ...

    def purge(self, retention_ms: int) -> None:
        """Delete some runs that are too old, when a purge is due."""
        ...

    def sweep(self) -> None:
        """Delete blobs that no row refers to. Only while it has all of the log."""
        ...

    def scrub(self) -> None:
        """Verify the next few rows."""
        ...

    @property
    def damage(self) -> str | None:
        """The damage that was found so far; None: none."""
        ...

    def check(self) -> None:
        """Raise JournalGone if its files are no longer the ones at their paths."""
        ...

    def check_lock(self) -> None:
        """As `check`, and make the lock file again where it was deleted."""
        ...

    def close(self, *, clean: bool) -> None:
        """Record whether the process ended in order; close and unlock."""
        ...

    def abandon(self) -> None:
        """Unlock without a record, as a killed process does."""
        ...
