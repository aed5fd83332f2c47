"""The deadlines of the runs that are being executed, on the steady clock."""

from __future__ import annotations

from fractal_rm.domain.budget import time_left_ms
from fractal_rm.domain.run import Run
from fractal_rm.engine.dependencies import Dependencies

# The shortened time limit of a call may end this much before the deadline of its run.
TOLERANCE_S = 0.02


class TimeIsUp(Exception):
    """A call was cancelled because the deadline of its run has passed."""


class Budgets:
    """Registers deadlines. ``ends_s``: by run id, the deadline in seconds of the steady clock."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._clock = dependencies.clock
        self.ends_s: dict[str, float] = {}

    def begin(self, run: Run, outer: Run | None) -> float | None:
        """Register the deadline of ``run``. Returns the seconds until then.

        Returns None if the deadline of ``outer``, its parent run, is earlier and applies.
        """
        now_ms = self._clock.steady_ms()
        now_s = now_ms / 1000
        ends_s = now_s + (time_left_ms(run, now_ms) or 0) / 1000
        outer_ends_s = self.ends_s.get(outer.id) if outer is not None else None
        if outer_ends_s is not None and ends_s > outer_ends_s - TOLERANCE_S:
            self.ends_s[run.id] = outer_ends_s
            return None
        self.ends_s[run.id] = ends_s
        return ends_s - now_s

    def end(self, run: Run) -> float:
        """Remove the deadline of ``run``. Returns the seconds that were left."""
        left_s = self.left_s(run)
        self.ends_s.pop(run.id, None)
        return max(0.0, left_s or 0.0)

    def left_s(self, run: Run) -> float | None:
        """The seconds until the deadline of a run, negative after it. None: it has no deadline."""
        ends_s = self.ends_s.get(run.id)
        return None if ends_s is None else ends_s - self._clock.steady_ms() / 1000

    def check(self, run: Run) -> None:
        """Raise TimeIsUp if the deadline of a run has passed."""
        left_s = self.left_s(run)
        if left_s is not None and left_s < TOLERANCE_S:
            raise TimeIsUp
