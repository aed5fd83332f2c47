"""The time that runs have left, on the steady clock."""

from __future__ import annotations

from fractal_rm.domain.budget import time_left_ms
from fractal_rm.domain.run import Run
from fractal_rm.engine.world import World

# What a component's time limit was shortened to may end a little before the run's own time does.
CLOSE_S = 0.02


class TimeIsUp(Exception):
    """A call was cut off because the time of its run has ended."""


class Budgets:
    """``ends_s`` has when each run that has a time budget must end, by id."""

    def __init__(self, world: World) -> None:
        self._clock = world.clock
        self.ends_s: dict[str, float] = {}

    def begin(self, run: Run, outer: Run | None) -> float | None:
        """Count for ``run``. Returns how many seconds it has; None: it ends when ``outer`` does."""
        now_ms = self._clock.steady_ms()
        now_s = now_ms / 1000
        ends_s = now_s + (time_left_ms(run, now_ms) or 0) / 1000
        outer_ends_s = self.ends_s.get(outer.id) if outer is not None else None
        if outer_ends_s is not None and ends_s > outer_ends_s - CLOSE_S:
            self.ends_s[run.id] = outer_ends_s
            return None
        self.ends_s[run.id] = ends_s
        return ends_s - now_s

    def end(self, run: Run) -> float:
        """Count no more. Returns how many seconds were left."""
        left_s = self.left_s(run)
        self.ends_s.pop(run.id, None)
        return max(0.0, left_s or 0.0)

    def left_s(self, run: Run) -> float | None:
        """How many seconds a run has left, perhaps less than none; None: it has no budget."""
        ends_s = self.ends_s.get(run.id)
        return None if ends_s is None else ends_s - self._clock.steady_ms() / 1000

    def check(self, run: Run) -> None:
        """Raise TimeIsUp where the time of a run has ended."""
        left_s = self.left_s(run)
        if left_s is not None and left_s < CLOSE_S:
            raise TimeIsUp
