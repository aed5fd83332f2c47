"""Whether a run only waits, as it was told to: then it is not what ends the process."""

from __future__ import annotations

from fractal_rm.domain.flow import Order, Step, SubFlow, Wait
from fractal_rm.domain.moment import left_ms
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import HERE, NAMED
from fractal_rm.engine.execute.dataflow import may_begin
from fractal_rm.engine.execute.unnumbered import HOLD_MS
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.ports import Clock
from fractal_rm.engine.queue.permits import Permits


class Waits:
    """Looks at a run that has left the line: it does a step next, or waits."""

    def __init__(self, runs: OpenRuns, permits: Permits, clock: Clock) -> None:
        self._runs = runs
        self._permits = permits
        self._clock = clock

    def only_waits(self, run: Run) -> bool:
        """For the end of a WAIT, or a place under a LIMIT; also where a run within it does.

        Or for its turn to be offered to a node: that it is offered is written before it is.
        """
        if run.stopping is not None or run.replying is not None:
            return False
        if run.placement is not HERE:
            return run.placement is NAMED
        steps = run.flow.steps
        if run.flow.order is Order.DATAFLOW:
            following = may_begin(run)
        else:
            following = range(len(steps))[run.position :][:1]
        waits = [self._waits(run, position, steps[position]) for position in following]
        return bool(waits) and all(waits)

    def _waits(self, run: Run, position: int, step: Step) -> bool:
        if isinstance(step, Wait):
            waiting = run.waiting
            if waiting is None or waiting.position != position:
                return False
            return left_ms(waiting.until, self._clock.moment(), step.ms) > HOLD_MS
        if not isinstance(step, SubFlow):
            return False
        child = self._runs.child(run, step.number)
        if child is not None:
            return self.only_waits(child)
        return not self._permits.is_available_for(run, step.number, step.flow)
