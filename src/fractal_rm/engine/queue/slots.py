"""Slots: the limit on the runs in flight."""

from __future__ import annotations

import asyncio

from fractal_rm.domain.admission import Limits, Load, may_begin
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import HERE, OFFERED
from fractal_rm.engine.queue.permits import Permits


class Slots:
    """Counts the runs in flight and their results: `Load.in_flight` and `Load.result_bytes`.

    A run that takes a slot no longer waits. A run that leaves its slot has ended, or waits again.
    So `take` and `free` also change `Load.waiting` and `Load.payload_bytes`.

    At most one run on its last attempt is in flight at a time. If the process crashes again, this
    run is known to be the cause.
    """

    def __init__(self, load: Load, limits: Limits, permits: Permits) -> None:
        self.load = load
        self.limits = limits
        self.paused_flows: frozenset[str] = frozenset()
        self._permits = permits
        self._last_attempt_id: str | None = None  # id of the run in flight on its last attempt
        self._idle = asyncio.Event()
        self._idle.set()

    def may_begin(self, run: Run, last_attempt: bool) -> bool:
        """Whether a slot is free for a run and, if its flow has a LIMIT, a permit.

        If its flow is paused, only a run continues that has begun, or that another node may have.
        """
        if run.flow.id in self.paused_flows and not (
            run.placement is HERE or run.placement in OFFERED
        ):
            return False
        if last_attempt:
            is_free = self._last_attempt_id is None and may_begin(0, self.load, self.limits)
        else:
            is_free = may_begin(self._permits.in_flight[run.flow.id], self.load, self.limits)
        # A run with the placement HERE already has its permit.
        return is_free and (run.placement is HERE or self._permits.may_begin(run))

    def take(self, run: Run, *, last_attempt: bool) -> None:
        """Take a slot for a waiting run."""
        load = self.load
        load.waiting -= 1
        load.in_flight += 1
        self._permits.take(run)
        if run.placement is HERE:
            # The run may have results from an earlier turn, or from before a crash.
            load.result_bytes += run.progress.result_bytes
        if last_attempt:
            self._last_attempt_id = run.id
        self._idle.clear()

    def free(self, run: Run, *, has_ended: bool) -> bool:
        """Free the slot of a run. Returns whether the run was on its last attempt."""
        load = self.load
        load.in_flight -= 1
        load.result_bytes -= run.progress.result_bytes
        if has_ended:
            load.payload_bytes -= run.payload_bytes
        else:
            load.waiting += 1
        self._permits.free(run, has_ended=has_ended)
        last_attempt = self._last_attempt_id == run.id
        if last_attempt:
            self._last_attempt_id = None
        if not load.in_flight:
            self._idle.set()
        return last_attempt

    def count_results(self, change_bytes: int) -> None:
        """Add ``change_bytes``, which may be negative, to the results of runs in flight."""
        self.load.result_bytes += change_bytes

    async def wait_until_idle(self) -> None:
        """Return when no run is in flight."""
        await self._idle.wait()
