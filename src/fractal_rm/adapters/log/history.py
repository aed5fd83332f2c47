"""The store that the log is brought into, as the log needs it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, Union

from fractal_rm.adapters.log.stories import Stories, Story
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import Prior, Recovered

Asked = tuple[Union[str, None], str, str, int]  # a key, a run id, a digest, when: see `Entry`


class Projected(NamedTuple):
    """How far the history has the log, as positions: ``all`` of it, and what ``ended`` in it.

    A run that begins and ends between two looks is written once. So those that ended are brought
    over often, and what is open only now and then.
    """

    all: int
    ended: int


class History(Protocol):
    """Calls block; they raise JournalError."""

    def open(self) -> Projected:
        """Take it; returns how far it has the log."""
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

    def open_ids(self) -> Sequence[str]:
        """The ids of the runs that have no end."""
        ...

    def take_out(self, run_ids: Sequence[str]) -> None:
        """Forget open runs, durably: another journal has them."""
        ...

    def project(self, stories: Stories, reached: Projected) -> None:
        """Take in what the log tells, and how far that goes; or nothing of it.

        In parts, for who must not be held up: `begin`, `add` for all that is new, `commit`.
        """
        ...

    def begin(self, stories: Stories) -> None:
        """What is told of runs that it has."""
        ...

    def add(self, stories: Sequence[Story]) -> None:
        """Some new runs. Reads nothing: it may be called where one must not wait for the disk."""
        ...

    def commit(self, stories: Stories, reached: Projected) -> None:
        """What else is told, and how far that goes; durable."""
        ...

    def purge(self, retention_ms: int) -> None:
        """Drop some of what is too old, when it is time for that."""
        ...

    def sweep(self) -> None:
        """Delete the blobs that nothing in it names. Only while it has all that the log tells."""
        ...

    def scrub(self) -> None:
        """Look whether a little more of it holds."""
        ...

    @property
    def damage(self) -> str | None:
        """What is known to be damaged in it; None: nothing."""
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
