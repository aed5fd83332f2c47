"""The deadlines, on the steady clock, of the runs that are being executed."""

from __future__ import annotations

from fractal_rm.domain.budget import time_left_ms
from fractal_rm.domain.run import Run
from fractal_rm.engine.dependencies import Dependencies

# If the deadline of a run limits the time of a call, the call may time out this much earlier.
TOLERANCE_S = 0.02


class TimeIsUp(Exception):
    """A call was cancelled because the deadline of its run has passed."""


class Budgets:
    """Registers the deadlines of runs.

    ``deadlines_s`` has them by run id, in seconds on the steady clock.
    """

    def __init__(self, dependencies: Dependencies) -> None:
        self._clock = dependencies.clock
        self.deadlines_s: dict[str, float] = {}

    def begin(self, run: Run, parent: Run | None) -> float | None:
        """Register the deadline of ``run``. Returns the seconds until then.

        Returns None if the deadline of ``parent`` is earlier: then that deadline applies.
        """
        now_ms = self._clock.steady_ms()
        now_s = now_ms / 1000
        deadline_s = now_s + (time_left_ms(run, now_ms) or 0) / 1000
        parent_deadline_s = self.deadlines_s.get(parent.id) if parent is not None else None
        if parent_deadline_s is not None and deadline_s > parent_deadline_s - TOLERANCE_S:
            self.deadlines_s[run.id] = parent_deadline_s
            return None
        self.deadlines_s[run.id] = deadline_s
        return deadline_s - now_s

    def end(self, run: Run) -> float:
        """Remove the deadline of ``run``. Returns the seconds that were left."""
        left_s = self.left_s(run)
        self.deadlines_s.pop(run.id, None)
        return max(0.0, left_s or 0.0)

    def left_s(self, run: Run) -> float | None:
        """The seconds until the deadline of a run; negative if it has passed. None: no deadline."""
        deadline_s = self.deadlines_s.get(run.id)
        return None if deadline_s is None else deadline_s - self._clock.steady_ms() / 1000

    def is_over(self, run: Run) -> bool:
        """Whether the deadline of a run has passed."""
        left_s = self.left_s(run)
        return left_s is not None and left_s < TOLERANCE_S

    def check(self, run: Run) -> None:
        """Raise TimeIsUp if the deadline of a run has passed."""
        if self.is_over(run):
            raise TimeIsUp
