"""Find open runs that nothing handles. Such a run is a fault of this program.

An open run must be queued, in flight, in a WAIT or parked, or must have an open parent run. Any
other open run would never end. A restart of the node continues it from the journal.
"""

from __future__ import annotations

from fractal_rm.domain.state import State
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.ports import ReadinessCheck, Telemetry
from fractal_rm.engine.queue import RunQueue

MAX_SHOWN = 3


class UnhandledRuns:
    """Compares the open runs with the runs in the queue, at each call of `update`."""

    def __init__(self, runs: OpenRuns, queue: RunQueue, telemetry: Telemetry) -> None:
        self._runs = runs
        self._queue = queue
        self._telemetry = telemetry
        self._previous: frozenset[str] = frozenset()
        self.unhandled: frozenset[str] = frozenset()

    def update(self) -> None:
        """Find unhandled runs. A run is reported if two calls in a row find it.

        The update takes time for each open run, so call it only every few seconds.
        """
        previous, self._previous = self._previous, self._not_handled()
        unhandled = previous & self._previous
        for run_id in sorted(unhandled - self.unhandled):
            self._telemetry.problem("run_not_handled", run=run_id, cure="restart the node")
        self.unhandled = unhandled

    def _not_handled(self) -> frozenset[str]:
        handled = self._queue.ids()
        return frozenset(
            run.id
            for run in self._runs
            if run.id not in handled
            and run.state is not State.PARKED
            and self._runs.parent(run) is None
        )

    def check(self) -> ReadinessCheck:
        """The result of the last update, for `readyz`."""
        if not self.unhandled:
            return ReadinessCheck("runs", ok=True, text="every open run is handled")
        ids = ", ".join(sorted(self.unhandled)[:MAX_SHOWN])
        if len(self.unhandled) > MAX_SHOWN:
            ids += ", …"
        text = f"{len(self.unhandled)} open runs are not handled (restart the node): {ids}"
        return ReadinessCheck("runs", ok=False, text=text)
