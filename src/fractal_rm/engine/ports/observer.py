"""Port `Observer`: an object that is called with the written facts of runs."""

from __future__ import annotations

from typing import Protocol

from fractal_rm.domain.facts import AnyFact
from fractal_rm.domain.run import Run


class Observer(Protocol):
    """Observes the written facts of the kinds in ``kinds``. It is called on the event loop.

    An observer must not block: for longer work it needs a bounded buffer and a task of its own. An
    observer that raises is not called again.
    """

    @property
    def kinds(self) -> frozenset[type[AnyFact]]:
        """The kinds of facts to observe; read once."""
        ...

    def written(self, run: Run, fact: AnyFact, at_ms: int) -> None:
        """Called when a fact was written at ``at_ms`` (wall clock) and applied to ``run``."""
        ...
