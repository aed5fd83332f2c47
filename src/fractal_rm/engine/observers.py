"""Pass every fact to the observers of runs, such as the program's log."""

from __future__ import annotations

from collections.abc import Container, Iterable

from fractal_rm.domain.facts import AnyFact
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import Observer, Telemetry


class Observers:
    """Calls the observers of each kind of fact. An observer that raises is not called again.

    Observers can be added and removed at any time, on the event loop. A kind of facts that nobody
    observes costs one search in `kinds`.
    """

    def __init__(self, observers: Iterable[Observer], telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        # A list is replaced and never changed: `notify` may be reading the old one.
        self._by_kind: dict[type, list[Observer]] = {}
        for observer in observers:
            self.add(observer)

    @property
    def kinds(self) -> Container[type]:
        """The kinds of facts that have an observer. This object shows every later change."""
        return self._by_kind

    def add(self, observer: Observer) -> None:
        """Call ``observer`` with the facts that are written from now on."""
        for kind in observer.kinds:
            self._by_kind[kind] = [*self._by_kind.get(kind, ()), observer]

    def remove(self, observer: Observer) -> None:
        """Do not call ``observer`` again. Does nothing if it was removed before."""
        for kind, observers in list(self._by_kind.items()):
            others = [each for each in observers if each is not observer]
            if others:
                self._by_kind[kind] = others
            else:
                del self._by_kind[kind]

    def notify(self, run: Run, fact: AnyFact, at_ms: int) -> None:
        """Call the observers of this kind of fact. The fact was already applied to the run."""
        for observer in self._by_kind.get(type(fact), ()):
            try:
                observer.written(run, fact, at_ms)
            except Exception as error:  # noqa: BLE001, PERF203 - the run is not at fault
                self._remove_broken(observer, error)

    def _remove_broken(self, broken: Observer, error: Exception) -> None:
        self.remove(broken)
        name = type(broken).__name__
        self._telemetry.problem(
            "observer_removed", observer=name, error=repr(error), exc_info=error
        )
