"""The other journals of a state folder, as this process's journal needs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fractal_rm.adapters.log.history import KeyQuery
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import ExistingRun, Recovered


class OtherJournal(Protocol):
    """A journal that no process has open. Calls block and raise JournalError."""

    name: str

    def open(self) -> Recovered | None:
        """Lock it and copy its log into its history; None: no run is open. Raises JournalInUse."""
        ...

    def begin_move(self) -> None:
        """Record durably that a move of runs to this process's journal has begun."""
        ...

    def body_of(self, run_ids: Sequence[str]) -> bytes:
        """A log body that has the complete record of these open runs, as new runs.

        Their blobs are copied to this process's journal, too.
        """
        ...

    def take_out(self, run_ids: Sequence[str]) -> None:
        """Delete open runs durably: another journal has them now."""
        ...

    def end_move(self) -> None:
        """Record that the move has ended: all moved runs were deleted here."""
        ...

    def close(self, *, done: bool) -> None:
        """Close and unlock. ``done``: skip this journal until its files change. Never raises."""
        ...


class OtherJournals(Protocol):
    """All journals of the folder except that of this process. Calls block."""

    def find(self, queries: Sequence[KeyQuery]) -> list[ExistingRun | None]:
        """As `History.find`, in each journal that can be read. Never raises."""
        ...

    def free_journals(self) -> Sequence[OtherJournal]:
        """Journals that may be unlocked and have open runs. Raises OSError."""
        ...

    def has_unfinished_moves(self) -> bool:
        """Whether a move to this journal began (`begin_move`) and may not have ended."""
        ...

    def clear_moves(self) -> None:
        """Record that no move is unfinished: each run is in one journal. Raises JournalError."""
        ...

    def carries(self, run: Run, /) -> bool:
        """Whether this process can execute a run that another process accepted."""
        ...

    def close(self) -> None:
        """Close the files that `find` keeps open."""
        ...


class NoOthers:
    """For a journal without others beside it."""

    def find(self, queries: Sequence[KeyQuery]) -> list[ExistingRun | None]:
        """Find nothing."""
        return [None] * len(queries)

    def free_journals(self) -> Sequence[OtherJournal]:
        """There are none."""
        return ()

    def has_unfinished_moves(self) -> bool:
        """There are none."""
        return False

    def clear_moves(self) -> None:
        """Nothing to clear."""

    def carries(self, run: Run) -> bool:  # noqa: ARG002 - never asked
        """Every run."""
        return True

    def close(self) -> None:
        """Nothing to close."""
