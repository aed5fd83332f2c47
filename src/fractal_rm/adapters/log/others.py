"""The other journals of a state folder, as the journal of a process needs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fractal_rm.adapters.log.history import Asked
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import Prior, Recovered


class OtherJournal(Protocol):
    """A journal that no process holds. Calls block; they raise JournalError."""

    name: str

    def open(self) -> Recovered | None:
        """Take it, with its log in its history; None: no run is open. Raises JournalInUse."""
        ...

    def begin_move(self) -> None:
        """Note durably that runs are about to be moved to this process's journal."""
        ...

    def body_of(self, run_ids: Sequence[str]) -> bytes:
        """All that is known of open runs, as the log says it of new ones.

        Their blobs are brought to this process's journal, too.
        """
        ...

    def take_out(self, run_ids: Sequence[str]) -> None:
        """Forget open runs, durably: another journal has them."""
        ...

    def end_move(self) -> None:
        """Note that all that was moved is taken out."""
        ...

    def close(self, *, seen: bool) -> None:
        """Let go; ``seen``: there is nothing to do here until somebody changes it. Never raises."""
        ...


class OtherJournals(Protocol):
    """All but the one of this process. Calls block."""

    def find(self, asked: Sequence[Asked]) -> list[Prior | None]:
        """As `History.find`, in each of them that can be read. Never raises."""
        ...

    def left(self) -> Sequence[OtherJournal]:
        """Those that may be free and have open runs. Raises OSError."""
        ...

    def moves_began(self) -> bool:
        """Whether a move hither began (`begin_move`) of which it is not known that it ended."""
        ...

    def forget_moves(self) -> None:
        """Each run is in one journal: moves that began have ended. Raises JournalError."""
        ...

    def carries(self, run: Run, /) -> bool:
        """Whether this process can carry a run that came to another."""
        ...

    def close(self) -> None:
        """Let go of what `find` keeps open."""
        ...


class NoOthers:
    """Of a journal that stands alone."""

    def find(self, asked: Sequence[Asked]) -> list[Prior | None]:
        """Nothing."""
        return [None] * len(asked)

    def left(self) -> Sequence[OtherJournal]:
        """None."""
        return ()

    def moves_began(self) -> bool:
        """Never."""
        return False

    def forget_moves(self) -> None:
        """There were none."""

    def carries(self, run: Run) -> bool:  # noqa: ARG002 - there is none
        """Any."""
        return True

    def close(self) -> None:
        """Nothing is open."""
