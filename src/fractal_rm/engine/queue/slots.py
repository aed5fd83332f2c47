"""How many runs are in flight at once."""

from __future__ import annotations

import asyncio

from fractal_rm.domain.admission import Limits, Load, may_begin
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import HERE
from fractal_rm.engine.queue.permits import Permits


class Slots:
    """Owns `Load.in_flight` and `Load.result_bytes`.

    Runs on their last attempt are in flight one at a time: if the process ends once more, it is
    known which of them was the cause.
    """

    def __init__(self, load: Load, limits: Limits, permits: Permits) -> None:
        self.load = load
        self.limits = limits
        self._permits = permits
        self._last_attempt: str | None = None  # the run on its last attempt that is in flight
        self._idle = asyncio.Event()
        self._idle.set()

    def may_begin(self, run: Run, alone: bool) -> bool:
        """Whether a slot is free for a run, and a permit where its flow has a LIMIT."""
        if alone:
            may = self._last_attempt is None and may_begin(0, self.load, self.limits)
        else:
            may = may_begin(self._permits.in_flight[run.flow.id], self.load, self.limits)
        # A run that executes here already has its permit.
        return may and (run.placement is HERE or self._permits.may_begin_another(run.flow))

    def take(self, run: Run, *, alone: bool) -> None:
        """Take a slot for a run."""
        self.load.in_flight += 1
        self._permits.take(run)
        if run.placement is HERE:
            self.load.result_bytes += run.result_bytes  # of an earlier turn, or before a crash
        if alone:
            self._last_attempt = run.id
        self._idle.clear()

    def free(self, run: Run, *, ended: bool) -> bool:
        """Free the slot of a run. Returns whether it went alone."""
        self.load.in_flight -= 1
        self.load.result_bytes -= run.result_bytes
        self._permits.free(run, ended=ended)
        alone = self._last_attempt == run.id
        if alone:
            self._last_attempt = None
        if not self.load.in_flight:
            self._idle.set()
        return alone

    def count_results(self, change_bytes: int) -> None:
        """Results of runs in flight take more memory, or less."""
        self.load.result_bytes += change_bytes

    async def wait_until_idle(self) -> None:
        """Return when nothing is in flight."""
        await self._idle.wait()
