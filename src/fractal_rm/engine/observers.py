"""Pass every fact to the observers of runs, such as the program's log."""

from __future__ import annotations

from collections.abc import Container, Iterable

from fractal_rm.domain.facts import AnyFact
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import Observer, Telemetry


class Observers:
    """Calls the observers of each kind of fact. An observer that raises is not called again."""

    def __init__(self, observers: Iterable[Observer], telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._by_kind: dict[type, list[Observer]] = {}
        for observer in observers:
            for kind in observer.kinds:
                self._by_kind.setdefault(kind, []).append(observer)

    @property
    def kinds(self) -> Container[type]:
        """The kinds of facts that have an observer."""
        return self._by_kind

    def notify(self, run: Run, fact: AnyFact, at_ms: int) -> None:
        """Call the observers of this kind of fact. The fact was already applied to the run."""
        for observer in self._by_kind.get(type(fact), ()):
            try:
                observer.written(run, fact, at_ms)
            except Exception as error:  # noqa: BLE001, PERF203 - the run is not at fault
                self._remove(observer, error)

    def _remove(self, broken: Observer, error: Exception) -> None:
        for kind, observers in self._by_kind.items():
            self._by_kind[kind] = [each for each in observers if each is not broken]
        name = type(broken).__name__
        self._telemetry.problem(
            "observer_removed", observer=name, error=repr(error), exc_info=error
        )
