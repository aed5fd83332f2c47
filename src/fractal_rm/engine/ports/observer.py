"""Who observes what becomes of runs."""

from __future__ import annotations

from typing import Protocol

from fractal_rm.domain.facts import AnyFact
from fractal_rm.domain.run import Run


class Observer(Protocol):
    """Is offered each written fact of the kinds that it names, on the event loop.

    It returns at once, and never blocks: what takes longer it keeps in a bounded buffer of its
    own, and does elsewhere. One that raises is offered no further facts.
    """

    @property
    def kinds(self) -> frozenset[type[AnyFact]]:
        """The kinds of facts that it wants; read once."""
        ...

    def written(self, run: Run, fact: AnyFact, at_ms: int) -> None:
        """A fact was written at ``at_ms`` (wall clock). ``run`` is as it is after the fact."""
        ...
