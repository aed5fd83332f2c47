"""Runs that want a later turn: they hold no slot until then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from fractal_rm.domain.run import Run
from fractal_rm.engine.timers import Timer, Timers

Due = Callable[[Run, bool], None]


class Deferred:
    """``due`` is called with each run when its time has come, and whether it goes alone."""

    def __init__(self, alarms: Timers, due: Due) -> None:
        self._alarms = alarms
        self._due = due
        self._runs: dict[str, tuple[Run, bool, Timer]] = {}
        self.recalled: set[str] = set()  # runs in flight that want another turn at once

    def add(self, run: Run, after_s: float, *, alone: bool) -> None:
        """Keep a run for so long; one that was recalled meanwhile is due at once."""
        if run.id in self.recalled:
            self.recalled.discard(run.id)
            after_s = 0
        alarm = self._alarms.set(after_s * 1000, partial(self._end_wait, run.id))
        self._runs[run.id] = run, alone, alarm

    def recall(self, run_id: str) -> None:
        """Make a run due now; one that is in flight, as soon as it is added."""
        if run_id in self._runs:
            self._end_wait(run_id)
        else:
            self.recalled.add(run_id)

    def __len__(self) -> int:
        """How many runs are kept, and how many of those in flight were recalled."""
        return len(self._runs) + len(self.recalled)

    def ids(self) -> Iterator[str]:
        """The ids of the runs that wait."""
        return iter(self._runs)

    def _end_wait(self, run_id: str) -> None:
        run, alone, alarm = self._runs.pop(run_id)
        alarm.cancel()
        self._due(run, alone)
