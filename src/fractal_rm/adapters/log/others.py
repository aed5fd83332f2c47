"""The interface of the other journals of a state folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fractal_rm.adapters.log.history import KeyQuery
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import ExistingRun, Recovered


class OtherJournal(Protocol):
    """A journal to adopt. Its methods block, and may raise JournalError."""

    name: str

    def open(self) -> Recovered | None:
        """Lock the journal, copy its log into its history, and return its open runs.

        Returns None if no run is open. Raises JournalInUse if a process has the journal open.
        """
        ...

    def begin_move(self) -> None:
        """Record durably that a move of runs to the journal of this process has begun."""
        ...

    def body_of(self, run_ids: Sequence[str]) -> bytes:
        """Encode these open runs as the body of a log, in which they are new runs.

        Also copies their blobs to the journal of this process.
        """
        ...

    def delete_moved(self, run_ids: Sequence[str]) -> None:
        """Delete open runs durably, after they were written to the journal of this process."""
        ...

    def end_move(self) -> None:
        """Record that the move has ended: the other journal no longer has the moved runs."""
        ...

    def close(self, *, done: bool) -> None:
        """Close and unlock. Never raises.

        ``done``: `free_journals` leaves this journal out until its files change.
        """
        ...


class OtherJournals(Protocol):
    """All journals of the folder except the journal of this process. The methods block."""

    def find(self, queries: Sequence[KeyQuery], /) -> list[ExistingRun | None]:
        """Do the same as `History.find` in each journal that can be read. Never raises."""
        ...

    def free_journals(self) -> Sequence[OtherJournal]:
        """The journals that may be free. `open` fails if a process has one open. Raises OSError."""
        ...

    def has_unfinished_moves(self) -> bool:
        """Whether a move to the journal of this process has begun, and no end is recorded."""
        ...

    def clear_moves(self) -> None:
        """Record that no move is unfinished. Raises JournalError."""
        ...

    def can_execute(self, run: Run, /) -> bool:
        """Whether this process can execute a run that another process accepted."""
        ...

    def close(self) -> None:
        """Close the files that `find` keeps open."""
        ...


class NoOthers:
    """`OtherJournals` for a journal whose folder has no other journals."""

    def find(self, queries: Sequence[KeyQuery], /) -> list[ExistingRun | None]:
        """Find nothing."""
        return [None] * len(queries)

    def free_journals(self) -> Sequence[OtherJournal]:
        """Return no journals."""
        return ()

    def has_unfinished_moves(self) -> bool:
        """Return false, as there are no moves."""
        return False

    def clear_moves(self) -> None:
        """Do nothing: there are no moves."""

    def can_execute(self, run: Run) -> bool:  # noqa: ARG002 - never called
        """Return true for every run."""
        return True

    def close(self) -> None:
        """Do nothing: no file is open."""
