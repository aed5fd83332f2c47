"""Counts how often a run was in flight when the process ended, before it is in flight again."""

from __future__ import annotations

from fractal_rm.domain.facts import Restarted
from fractal_rm.domain.run import Run
from fractal_rm.engine.execute.waits import WaitingCheck
from fractal_rm.engine.recorder import Recorder


class Attempts:
    """A run that ends the process is known by its count, and set aside after a few attempts."""

    def __init__(self, recorder: Recorder, waits: WaitingCheck) -> None:
        self._recorder = recorder
        self._waits = waits
        self.expected: set[str] = set()  # ids of runs whose next attempt is to be counted

    def expect(self, run: Run) -> None:
        """A crash interrupted this run: its next attempt is to be counted."""
        self.expected.add(run.id)

    async def count(self, run: Run) -> None:
        """Write that an attempt begins, durably; none does while the run only waits."""
        if not self._waits.is_only_waiting(run):
            self.expected.discard(run.id)
            await self._recorder.record_durably(run, Restarted(run.attempts + 1))
