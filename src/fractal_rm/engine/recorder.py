"""The one place where facts are applied to runs and given to the journal."""

from __future__ import annotations

from collections.abc import Awaitable

from fractal_rm.domain.facts import AnyFact, Dead, Settled
from fractal_rm.domain.run import Run
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.outcomes import Outcomes
from fractal_rm.engine.ports import NewRun
from fractal_rm.engine.queue.slots import Slots


class Recorder:
    """Writes facts, and calls the observers of each written fact.

    ``slots`` counts the memory that results take.
    """

    def __init__(
        self, dependencies: Dependencies, runs: OpenRuns, outcomes: Outcomes, slots: Slots
    ) -> None:
        self._journal = dependencies.journal
        # Gives a new run to the journal; see the port. The facts of the run are applied already.
        self.accept = dependencies.journal.accept
        self._now_ms = dependencies.clock.now_ms
        self._observers = dependencies.observers
        self._observed = self._observers.kinds
        self._runs = runs
        self._outcomes = outcomes
        self._slots = slots

    def add(self, run: Run, entry: NewRun) -> None:
        """Add a new run that is durable to the open runs, and call the observers of its facts."""
        self._runs.add(run)
        self.notify(run, entry)

    def notify(self, run: Run, entry: NewRun) -> None:
        """Call the observers of the facts of an entry that is durable."""
        for fact in entry.facts:
            if type(fact) in self._observed:
                self._observers.notify(run, fact, entry.at_ms)

    def record(self, run: Run, fact: AnyFact) -> None:
        """Apply a fact, and pass it to the journal. The fact is durable within about 1 s."""
        progress = run.progress
        bytes_before = progress.result_bytes
        run.apply(fact)
        if progress.result_bytes != bytes_before:
            # Counted here, because a method call for each result takes time.
            self._slots.load.result_bytes += progress.result_bytes - bytes_before
        at_ms = self._now_ms()
        self._journal.append(run, fact, at_ms)
        if type(fact) in self._observed:
            self._observers.notify(run, fact, at_ms)

    def record_durably(self, run: Run, fact: AnyFact) -> Awaitable[None]:
        """Apply a fact and write it now. Await the result to wait until the fact is durable."""
        self.record(run, fact)
        return self._journal.durable

    def settle(self, run: Run, fact: Settled | Dead) -> Awaitable[None] | None:
        """Write the last fact of a run.

        If callers wait for the outcome, returns an awaitable that notifies them; otherwise None.
        """
        self.record(run, fact)
        self._runs.remove(run)
        return self._outcomes.add_ended(run, self._journal.durable)
