"""The steps of a run, in the order of its flow and within its time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Union

from msgspec import UNSET

from fractal_rm.domain.budget import time_left_ms
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import Dead, Settled, fault
from fractal_rm.domain.flow import Call, Order, Step, SubFlow
from fractal_rm.domain.in_doubt import said_of
from fractal_rm.domain.outcome import Later
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.engine.accept import Acceptance
from fractal_rm.engine.execute.budgets import Budgets, TimeIsUp
from fractal_rm.engine.execute.calls import Calls
from fractal_rm.engine.execute.dataflow import Dataflow
from fractal_rm.engine.execute.each import ForEach
from fractal_rm.engine.execute.sub_flow import SubFlows
from fractal_rm.engine.execute.undo import Undoing
from fractal_rm.engine.execute.unnumbered import UnnumberedSteps
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.queue import RunQueue
from fractal_rm.engine.recorder import Recorder
from fractal_rm.engine.world import World

Ending = Union[Settled, Later]


class Executor:
    """Goes on after the last finished step, to the end, whatever kinds of steps a flow has."""

    def __init__(
        self,
        world: World,
        runs: OpenRuns,
        recorder: Recorder,
        acceptance: Acceptance,
        queue: RunQueue,
    ) -> None:
        self._telemetry = world.telemetry
        self._runs = runs
        self._alarms = world.alarms
        self._budgets = Budgets(world)
        self._calls = Calls(world, runs, recorder, queue.pace, self._budgets)
        self._each = ForEach(self._calls)
        self._unnumbered = UnnumberedSteps(world, recorder)
        self._undoing = Undoing(self._calls, recorder)
        self.undo = self._undoing.undo
        self._sub_flows = SubFlows(
            world, runs, recorder, acceptance, queue, self._budgets, self._carry, self.undo
        )
        self.set_aside_children = self._sub_flows.set_aside
        self._dataflow = Dataflow(
            self._take,
            recorder.record,
            self._sub_flows.under_way,
            self._sub_flows.forgo,
            queue.permits,
            world.alarms,
        )

    def execute(self, run: Run) -> Awaitable[Ending]:
        """Do the steps that are left. Comes to how the run ends, before anything is undone."""
        if run.stopping is not None:
            return self._stopped(run)
        if run.flow.deadline_ms is not UNSET or run.budget_ms is not None:
            return self._in_time(run)
        return self._steps(run)

    async def broken(self, run: Run, error: Exception) -> Dead:
        """A fault of this program: the run is set aside, where a person can see it."""
        self._telemetry.problem("run_broke", run=run.id, error=repr(error), exc_info=error)
        await self.set_aside_children(run)
        return fault(error)

    # --- the order ------------------------------------------------------------------------------

    def _steps(self, run: Run) -> Awaitable[Ending]:
        if run.flow.order is Order.DATAFLOW:
            return self._dataflow.go(run)
        return self._listed(run)

    async def _listed(self, run: Run) -> Ending:
        make = self._calls.make
        for step in run.flow.steps[run.position :]:
            if isinstance(step, Call) and (step.terms is UNSET or step.terms.each is None):
                ending = await make(run, step)
            else:
                ending = await self._take(run, run.position, step)
            if ending is not None:
                return ending
        return Settled(State.SUCCEEDED)

    async def _take(self, run: Run, position: int, step: Step) -> Ending | None:
        """Do one step of any kind. None: it is done; otherwise how the run ends or goes on."""
        if isinstance(step, Call):
            if step.terms is not UNSET and step.terms.each is not None:
                return await self._each.make(run, step, step.terms.each)
            return await self._calls.make(run, step)
        if isinstance(step, SubFlow):
            return await self._sub_flows.take(run, step)
        return await self._unnumbered.take(run, position, step)

    # --- the time -------------------------------------------------------------------------------

    async def _in_time(self, run: Run) -> Ending:
        """The steps, cut off when the time of the run has ended, whatever they wait for."""
        left_s = self._budgets.begin(run, self._runs.parent(run))
        ending = None
        try:
            if left_s is None:
                return await self._steps(run)
            ending = await self._alarms.within(left_s * 1000, self._steps(run))
        except (asyncio.TimeoutError, TimeIsUp) as error:
            if left_s is None:
                raise TimeIsUp from error
        finally:
            left_s = self._budgets.end(run)
        if isinstance(ending, Later):
            return Later(min(ending.after_s, left_s))
        return ending or await self._expired(run)

    async def _expired(self, run: Run) -> Settled:
        counted = [step for step in run.flow.steps if isinstance(step, (Call, SubFlow))]
        came = f"{len(run.results)} of {len(counted)} calls were made"
        calls = await self._sub_flows.expire(run, f"the time of run {run.id} ended")
        had_s = (time_left_ms(run, run.steady_ms) or 0) / 1000
        why = f"the deadline of {had_s:g} s ended when {came}{said_of(calls, run.id)}"
        return Settled(State.EXPIRED, why, Cause.DEADLINE)

    # --- ends -----------------------------------------------------------------------------------

    async def _stopped(self, run: Run) -> Ending:
        """A crash came while it was undone: how it ends is written already."""
        stopping = run.stopping
        if stopping is None:
            return await self._steps(run)
        return Settled(stopping.state, stopping.reason, stopping.cause)

    async def _carry(self, run: Run) -> Settled | Dead | Later:
        """A run within another one: executed, and undone where it failed."""
        try:
            ending = await self.execute(run)
            return ending if isinstance(ending, Later) else await self.undo(run, ending)
        except TimeIsUp:
            raise
        except Exception as error:  # noqa: BLE001 - the run that carries it is not at fault
            return await self.broken(run, error)
