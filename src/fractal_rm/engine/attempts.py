"""Count how often a run was in flight when the process ended."""

from __future__ import annotations

from fractal_rm.domain.facts import Restarted
from fractal_rm.domain.run import Run
from fractal_rm.engine.execute.waits import WaitingCheck
from fractal_rm.engine.recorder import Recorder


class Attempts:
    """Counts the attempts of runs that a crash interrupted.

    If a run makes the process crash again and again, its count reaches the maximum. Then the run is
    set aside.
    """

    def __init__(self, recorder: Recorder, waits: WaitingCheck) -> None:
        self._recorder = recorder
        self._waits = waits
        self.interrupted: set[str] = set()  # ids of runs whose next attempt must be counted

    def add_interrupted(self, run: Run) -> None:
        """Add a run that a crash interrupted: its next attempt must be counted."""
        self.interrupted.add(run.id)

    async def count(self, run: Run) -> None:
        """Record durably that an attempt begins. If the run only waits, do nothing."""
        if not self._waits.is_only_waiting(run):
            self.interrupted.discard(run.id)
            await self._recorder.record_durably(run, Restarted(run.attempts + 1))
