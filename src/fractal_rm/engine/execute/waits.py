"""Check whether a run only waits. Such a run cannot have caused a crash."""

from __future__ import annotations

from fractal_rm.domain.flow import Call, Order, Publish, Reply, Step, SubFlow, Wait
from fractal_rm.domain.moment import left_ms
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import HERE, NAMED
from fractal_rm.engine.execute.dataflow import ready_positions_of
from fractal_rm.engine.execute.unnumbered import MAX_WAIT_IN_SLOT_MS
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.ports import Clock
from fractal_rm.engine.queue.permits import Permits


class WaitingCheck:
    """Checks whether a run that left the queue only waits, or has a step to execute."""

    def __init__(self, runs: OpenRuns, permits: Permits, clock: Clock) -> None:
        self._runs = runs
        self._permits = permits
        self._clock = clock

    def is_only_waiting(self, run: Run) -> bool:
        """Whether a run only waits: for the end of a WAIT, for a permit (LIMIT) or for an offer.

        A run whose child only waits also only waits. A run that is placed on another node, but has
        no fact `Offered`, was never offered: `Offered` is recorded before each first offer.
        """
        if run.stopping is not None or run.replying is not None:
            return False
        if run.placement is not HERE:
            return run.placement is NAMED
        steps = run.flow.steps
        if run.flow.order is Order.DATAFLOW:
            next_positions = ready_positions_of(run)
        else:
            next_positions = range(len(steps))[run.progress.position :][:1]
        waits = [self._waits(run, position, steps[position]) for position in next_positions]
        return bool(waits) and all(waits)

    def _waits(self, run: Run, position: int, step: Step) -> bool:
        match step:
            case Wait():
                wait_fact = run.progress.last_wait
                if wait_fact is None or wait_fact.position != position:
                    return False
                return left_ms(wait_fact.until, self._clock.moment(), step.ms) > MAX_WAIT_IN_SLOT_MS
            case SubFlow():
                child = self._runs.child(run, step.number)
                if child is not None:
                    return self.is_only_waiting(child)
                return not self._permits.is_available_for(run, step.number, step.flow)
            case Call() | Publish() | Reply():
                return False
