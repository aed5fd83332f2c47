"""Port `Observer`: an object that is called with the written facts of runs."""

from __future__ import annotations

from typing import Protocol

from fractal_rm.domain.facts import AnyFact
from fractal_rm.domain.run import Run


class Observer(Protocol):
    """Observes the facts of the kinds in ``kinds``. It is called on the event loop.

    The first facts of a run, and the fact of a dead letter, are durable when it is called. Later
    facts were passed to the journal. A refused trigger that is not stored has no fact.

    An observer must not block: for longer work it needs a bounded buffer and a task of its own. An
    observer that raises is not called again.
    """

    @property
    def kinds(self) -> frozenset[type[AnyFact]]:
        """The kinds of facts to observe. This property is read only once."""
        ...

    def written(self, run: Run, fact: AnyFact, at_ms: int) -> None:
        """Called when a fact of the time ``at_ms`` (wall clock) was applied to ``run``."""
        ...
