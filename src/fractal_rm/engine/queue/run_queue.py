"""The queue of accepted runs. Workers take from it the run whose turn it is.

join ──> in line ──next──> in flight ──leave──> ended
│  ▲                            │
│  └───────── deferred <────────┘ it wants a later turn
└──> withdrawn: stale, or superseded by a newer run (STALE, LATEST)
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from fractal_rm.domain.admission import Limits, Load
from fractal_rm.domain.facts import Settled
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import HERE
from fractal_rm.engine.queue.capacity import RECHECK_S, Capacity
from fractal_rm.engine.queue.deferred import Deferred
from fractal_rm.engine.queue.order import Order
from fractal_rm.engine.queue.pace import Pace
from fractal_rm.engine.queue.permits import Permits
from fractal_rm.engine.queue.ready import Ready
from fractal_rm.engine.queue.slots import Slots
from fractal_rm.engine.timers import Timers

__all__ = ["RECHECK_S", "RunQueue", "Withdrawn"]


class Withdrawn(NamedTuple):
    """A run that left the queue before it began, and how it ends."""

    run: Run
    ending: Settled


class RunQueue:
    """Nothing begins before it is opened. `Capacity` refuses what is over a bound."""

    def __init__(self, load: Load, limits: Limits, permits: Permits, alarms: Timers) -> None:
        self.capacity = Capacity(load, limits)
        self.slots = Slots(load, limits, permits)
        self.permits = permits
        self.pace = Pace(self._dispatch)
        self._order = Order(alarms, self._withdraw)
        self.deferred = Deferred(alarms, self._return_to_line)
        self._ready = Ready()
        self._withdrawn: asyncio.Queue[Withdrawn] = asyncio.Queue()
        self._handled: set[str] = set()  # runs in flight, and withdrawn ones
        self._is_open = False

    # --- in --------------------------------------------------------------------------------------

    def join(self, run: Run) -> None:
        """Put a run in line for which room is reserved. It begins at once where a slot is free."""
        self._order.add(run, self.capacity.limits.evaluated_values)
        if not self.pace.will_ask:
            self._dispatch()

    def readmit(self, run: Run, *, alone: bool = False) -> None:
        """Put a run in line that the journal held. ``alone``: it is on its last attempt."""
        self.capacity.add(run.payload_bytes)
        if run.placement is HERE:
            self.permits.deferred[run.flow.id] += 1
        try:
            max_values = self.capacity.limits.evaluated_values
            self._order.add(run, max_values, alone=alone, held=True)
        except Exception:
            self.capacity.release(run.payload_bytes)
            if run.placement is HERE:
                self.permits.deferred[run.flow.id] -= 1
            raise
        self._dispatch_unless_asked()

    def _return_to_line(self, run: Run, alone: bool) -> None:
        self._order.add(run, self.capacity.limits.evaluated_values, alone=alone)
        self._dispatch_unless_asked()

    # --- out: for workers ------------------------------------------------------------------------

    async def next(self) -> Run | None:
        """The run whose turn it is; it holds a slot until it leaves. None: no worker is needed."""
        run = self._take() or self._ready.take()
        if run is not None:
            return run
        waiter = self._ready.wait()
        return None if waiter is None else await waiter

    def leave(self, run: Run, deferred_s: float | None) -> None:
        """Free the slot of a run that has ended, or wants another turn after ``deferred_s``."""
        ended = deferred_s is None
        alone = self.slots.free(run, ended=ended)
        self._handled.discard(run.id)
        if deferred_s is None:
            self.capacity.end(run.payload_bytes)
            self.deferred.recalled.discard(run.id)
            if self.permits.in_use:
                self.release_permits(run)
        else:
            self.capacity.wait_again()
            self.deferred.add(run, deferred_s, alone=alone)

    async def workers_wanted(self) -> int:
        """Wait until runs hold slots for which no worker waits. Returns how many."""
        return await self._ready.workers_wanted()

    async def next_withdrawn(self) -> Withdrawn:
        """A run that is not to begin any more. Call `drop` when it is settled."""
        return await self._withdrawn.get()

    def drop(self, run: Run) -> None:
        """A withdrawn run is settled."""
        self._handled.discard(run.id)
        if run.reply_topic is not None:
            self.capacity.release(run.payload_bytes)

    def _withdraw(self, run: Run, ending: Settled) -> None:
        """Free its room; while its sender is still to be told, it is in memory and keeps it."""
        self._handled.add(run.id)
        if run.reply_topic is None:
            self.capacity.release(run.payload_bytes)
        self._withdrawn.put_nowait(Withdrawn(run, ending))

    # --- who begins ------------------------------------------------------------------------------

    def _dispatch_unless_asked(self) -> None:
        if not self.pace.will_ask:
            self._dispatch()

    def _dispatch(self) -> None:
        """Give free slots to the lines in turn, until no line may have another."""
        while (run := self._take()) is not None:
            self._ready.put(run)

    def _take(self) -> Run | None:
        """The run whose turn it is leaves its line and has a slot. None: none may begin now."""
        load = self.capacity.load
        if not (self._is_open and load.waiting) or load.in_flight >= self.slots.limits.in_flight:
            return None  # however many lines there are
        if not self.pace.may_begin(load.in_flight):
            self.pace.ask_again(load)
            return None
        taken = self._order.next(self.slots.may_begin)
        if taken is None:
            return None
        run, alone = taken
        self.pace.begins(load.in_flight)
        self.capacity.begin()
        self.slots.take(run, alone=alone)
        self._handled.add(run.id)
        return run

    def open(self) -> None:
        """Let runs begin."""
        self._is_open = True
        self._dispatch()

    def close(self) -> None:
        """Let no further run begin. Those in flight continue, and others may join."""
        self._is_open = False

    def cancel_timers(self) -> None:
        """Withdraw no run any more because it is stale."""
        self._order.close()

    def reconfigure(self, limits: Limits, flows: Mapping[str, Flow]) -> None:
        """Other limits are in force: runs begin for which they leave room."""
        self.capacity.limits = self.slots.limits = limits
        self.permits.flows = flows
        self._grant(self.permits.waited_for)

    # --- permits (LIMIT) -------------------------------------------------------------------------

    def release_permits(self, ended: Run) -> None:
        """A run has ended: the line of its flow, and steps that wait to RUN the flow, continue."""
        self._grant(self.permits.release_all_of(ended))

    def withdraw_request(self, run: Run, number: int, flow: str) -> None:
        """A step that asked for a permit begins no run: others may have the permit."""
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

    # --- what it has -----------------------------------------------------------------------------

    def ids(self) -> set[str]:
        """The ids of all its runs: in line, in flight, deferred, withdrawn, waiting for permits."""
        again = self.permits.waiting_to_resume
        return {*self._order.ids(), *self._handled, *self.deferred.ids(), *again}

    def held_up(self) -> Counter[str]:
        """How many runs wait for a permit, by flow."""
        return self.permits.held_up(self._order.waiting())
