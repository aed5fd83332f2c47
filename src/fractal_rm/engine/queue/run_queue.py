"""The queue of accepted runs. Workers take the next run from it.

The states of a run in the queue:

    join ──> in line ──next──> in flight ──leave──> ended
               │  ▲                            │
               │  └───────── deferred <────────┘ waits for a later turn
               └──> withdrawn: stale, or superseded by a newer run (STALE, LATEST)
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from msgspec import UNSET

from fractal_rm.domain.admission import Limits, Load
from fractal_rm.domain.facts import Settled
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import HERE
from fractal_rm.engine.queue.capacity import RECHECK_S, Capacity
from fractal_rm.engine.queue.deferred import Deferred
from fractal_rm.engine.queue.order import RunOrder
from fractal_rm.engine.queue.pace import Pace
from fractal_rm.engine.queue.permits import Permits
from fractal_rm.engine.queue.ready import Ready
from fractal_rm.engine.queue.slots import Slots
from fractal_rm.engine.timers import Timers

__all__ = ["RECHECK_S", "RunQueue", "Withdrawn"]


class Withdrawn(NamedTuple):
    """A run that left the queue before it began, and its ending."""

    run: Run
    ending: Settled


class RunQueue:
    """The accepted runs. No run begins before `open`. `Capacity` refuses triggers over a bound."""

    def __init__(self, load: Load, limits: Limits, permits: Permits, timers: Timers) -> None:
        self.capacity = Capacity(load, limits)
        self.slots = Slots(load, limits, permits)
        self.permits = permits
        permits.rates.use(timers, lambda flow: self._grant({flow}))
        self.pace = Pace(self._dispatch)
        self._order = RunOrder(timers, self._withdraw)
        self.deferred = Deferred(timers, self._return_to_line)
        self._ready = Ready()
        self._withdrawn: asyncio.Queue[Withdrawn] = asyncio.Queue()
        self._handled: set[str] = set()  # the ids of runs in flight and of withdrawn runs
        self._is_open = False

    # --- runs that join ---------------------------------------------------------------------------

    def join(self, run: Run) -> None:
        """Put a new run in line. Its room is reserved already. It may begin immediately.

        A run that comes with finished steps waits here until a permit of its flow is free.
        """
        if run.placement is HERE:
            self.permits.resume_when_available(run, partial(self.readmit, run))
            self.capacity.release(run.payload_bytes)  # `readmit` counts the run
            return
        self._order.add(run, self.capacity.limits.evaluated_values)
        if not self.pace.will_dispatch:
            self._dispatch()

    def readmit(self, run: Run, *, last_attempt: bool = False) -> None:
        """Put a run from the journal in line. ``last_attempt``: the run is on its last attempt."""
        self.capacity.add(run.payload_bytes)
        if run.placement is HERE:
            self.permits.deferred[run.flow.id] += 1
        try:
            max_values = self.capacity.limits.evaluated_values
            self._order.add(run, max_values, last_attempt=last_attempt, recovered=True)
        except Exception:
            self.capacity.release(run.payload_bytes)
            if run.placement is HERE:
                self.permits.deferred[run.flow.id] -= 1
            raise
        if not self.pace.will_dispatch:
            self._dispatch()

    def _return_to_line(self, run: Run, last_attempt: bool) -> None:
        self._order.add(run, self.capacity.limits.evaluated_values, last_attempt=last_attempt)
        if not self.pace.will_dispatch:
            self._dispatch()

    # --- runs for workers ------------------------------------------------------------------------

    def take(self) -> Run | None:
        """Return the next run. It holds a slot until `leave`. None: no run may begin now."""
        return self._take() or self._ready.take()

    async def wait(self) -> Run | None:
        """Wait for the next run if `take` returned None. None: the worker should end."""
        worker = self._ready.wait()
        return None if worker is None else await worker

    def leave(self, run: Run, deferred_s: float | None) -> None:
        """Free the slot of a run. ``deferred_s``: time until its next turn; None: it has ended."""
        last_attempt = self.slots.free(run, has_ended=deferred_s is None)
        self._handled.discard(run.id)
        self.capacity.notify()
        if deferred_s is None:
            self.deferred.recalled.discard(run.id)
            if self.permits.in_use:
                self.release_permits(run)
        else:
            self.deferred.add(run, deferred_s, last_attempt=last_attempt)

    async def workers_wanted(self) -> int:
        """Wait until there are too few workers for the ready runs. Returns how many to add."""
        return await self._ready.workers_wanted()

    async def next_withdrawn(self) -> Withdrawn:
        """Wait for a run that must not begin any more. Call `drop` when it is settled."""
        return await self._withdrawn.get()

    def drop(self, run: Run) -> None:
        """Remove a withdrawn run that is settled."""
        self._handled.discard(run.id)
        if run.accepted.reply_topic is not UNSET:
            self.capacity.release(run.payload_bytes)

    def withdraw(self, run: Run) -> bool:
        """Remove a run that waits: in line, for a later turn, or for permits after a restart.

        Returns False if it does not wait. Otherwise, call `drop` when it is settled.
        """
        if self.permits.withdraw_resuming(run):
            self.capacity.add(run.payload_bytes)  # it was not counted while it waited for permits
        elif not (self._order.withdraw(run) or self.deferred.withdraw(run.id)):
            return False
        elif run.placement is HERE:
            self.permits.deferred[run.flow.id] -= 1
        self._take_out(run)
        self.release_permits(run)
        return True

    def hold(self, run: Run) -> None:
        """Count a run that is not in the queue as withdrawn. Call `drop` when it is settled."""
        self.capacity.add(run.payload_bytes)
        self._take_out(run)

    def _withdraw(self, run: Run, ending: Settled) -> None:
        """Withdraw a run that must not begin any more."""
        self._take_out(run)
        self._withdrawn.put_nowait(Withdrawn(run, ending))

    def _take_out(self, run: Run) -> None:
        """Free the room of a run now, or after its reply if a reply must be sent."""
        self._handled.add(run.id)
        if run.accepted.reply_topic is UNSET:
            self.capacity.release(run.payload_bytes)

    # --- which run begins ------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Give free slots to the lines in turn, until no run may begin."""
        while (run := self._take()) is not None:
            self._ready.put(run)

    def _take(self) -> Run | None:
        """Give a slot to the next run, and return the run. None: no run may begin now."""
        load = self.capacity.load
        if not (self._is_open and load.waiting) or load.in_flight >= self.slots.limits.in_flight:
            return None  # fast path, without a search of the lines
        if not self.pace.may_begin(load.in_flight):
            self.pace.dispatch_later(load)
            return None
        candidate = self._order.next(self.slots.may_begin)
        if candidate is None:
            return None
        run, last_attempt = candidate
        self.pace.count_begin(load.in_flight)
        self.slots.take(run, last_attempt=last_attempt)
        self._handled.add(run.id)
        return run

    def open(self) -> None:
        """Let runs begin."""
        self._is_open = True
        self._dispatch()

    def close(self) -> None:
        """Let no other run begin. Runs in flight continue, and new runs may still join."""
        self._is_open = False

    def pause_flows(self, flows: frozenset[str]) -> None:
        """Let no other run of these flows begin, and let runs of all other flows begin."""
        self.slots.paused_flows = flows
        self._dispatch()

    def cancel_timers(self) -> None:
        """Cancel the timers of STALE and of rates, so that no run is withdrawn or begins."""
        self._order.close()
        self.permits.rates.cancel_timers()

    def reconfigure(self, limits: Limits, flows: Mapping[str, Flow]) -> None:
        """Apply other limits and flows, and begin the runs that they allow."""
        self.capacity.limits = self.slots.limits = limits
        self.permits.flows = flows
        self.permits.rates.keep(flows)
        self._grant(self.permits.awaited_flows)

    # --- permits (LIMIT) -------------------------------------------------------------------------

    def release_permits(self, ended_run: Run) -> None:
        """Free the permits of an ended run, and give them to runs and steps that wait for them."""
        self._grant(self.permits.release_all_of(ended_run))

    def withdraw_request(self, run: Run, number: int, flow: str) -> None:
        """Withdraw the permit request of a step that begins no run. Another may get the permit."""
        if self.permits.withdraw(run, number, flow):
            self._grant({flow})

    def _grant(self, flows: set[str]) -> None:
        self.permits.resume_waiting()
        for flow in flows:
            if self.permits.line_is_next(flow):
                self._dispatch()
            for run in self.permits.grant(flow):
                self.deferred.recall(run.id)
        self._dispatch()

    # --- contents ---------------------------------------------------------------------------------

    def ids(self) -> set[str]:
        """The ids of all runs: in line, in flight, deferred, withdrawn, waiting for permits."""
        resuming = self.permits.waiting_to_resume
        return {*self._order.ids(), *self._handled, *self.deferred.ids(), *resuming}

    def waiting_by_flow(self) -> Counter[str]:
        """How many runs of each flow wait in line."""
        return self._order.waiting()

    @property
    def oldest_waiting_ms(self) -> int | None:
        """The wall time when the run that waits longest was accepted. None: no run waits."""
        return self._order.oldest_waiting_ms()

    def waiting_for_permits(self) -> Counter[str]:
        """The number of runs that wait for a permit, by flow."""
        return self.permits.waiting_for_permits(self._order.waiting())
