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
        self._interrupted: set[str] = set()  # by a crash, and not in flight again since

    def expect(self, run: Run) -> None:
        """A crash interrupted this run: its next attempt is to be counted."""
        self._interrupted.add(run.id)

    def is_expected(self, run: Run) -> bool:
        """Whether the attempt that begins now is to be counted."""
        return run.id in self._interrupted

    async def count(self, run: Run) -> None:
        """Write that an attempt begins, durably; none does while the run only waits."""
        if not self._waits.is_only_waiting(run):
            self._interrupted.discard(run.id)
            await self._recorder.record_durably(run, Restarted(run.attempts + 1))

    def forget(self, run: Run) -> None:
        """A run has ended."""
        self._interrupted.discard(run.id)
