"""Runs that wait for a later turn, without a slot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from fractal_rm.domain.run import Run
from fractal_rm.engine.timers import Timer, Timers

Due = Callable[[Run, bool], None]


class Deferred:
    """Holds each run until its turn, then calls ``due(run, last_attempt)``."""

    def __init__(self, timers: Timers, due: Due) -> None:
        self._timers = timers
        self._due = due
        self._runs: dict[str, tuple[Run, bool, Timer]] = {}
        # Ids of runs in flight: the next turn of these runs begins without a wait.
        self.recalled: set[str] = set()

    def add(self, run: Run, after_s: float, *, last_attempt: bool) -> None:
        """Add a run that is due after ``after_s``, or now if it was recalled while in flight."""
        if run.id in self.recalled:
            self.recalled.discard(run.id)
            after_s = 0
        timer = self._timers.set(after_s * 1000, partial(self._end_wait, run.id))
        self._runs[run.id] = run, last_attempt, timer

    def recall(self, run_id: str) -> None:
        """Make a run due now. If it is in flight, it is due as soon as it is added."""
        if run_id in self._runs:
            self._end_wait(run_id)
        else:
            self.recalled.add(run_id)

    def withdraw(self, run_id: str) -> bool:
        """Remove a run before its turn. Returns whether it was deferred."""
        deferred = self._runs.pop(run_id, None)
        if deferred is None:
            return False
        _, _, timer = deferred
        timer.cancel()
        return True

    def __len__(self) -> int:
        """The number of deferred runs, and of recalled runs in flight."""
        return len(self._runs) + len(self.recalled)

    def ids(self) -> Iterator[str]:
        """The ids of the deferred runs."""
        return iter(self._runs)

    def _end_wait(self, run_id: str) -> None:
        run, last_attempt, timer = self._runs.pop(run_id)
        timer.cancel()
        self._due(run, last_attempt)
