"""Execute the steps of a run, in the order of its flow and before its deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Union

from msgspec import UNSET

from fractal_rm.domain.budget import time_left_ms
from fractal_rm.domain.cancelling import cancelled, ending_before_undo
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import CancelRequested, Dead, Settled, dead_by_fault
from fractal_rm.domain.flow import Call, Order, Step, SubFlow
from fractal_rm.domain.in_doubt import in_doubt_words
from fractal_rm.domain.outcome import ResumeLater
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.execute.budgets import Budgets, TimeIsUp
from fractal_rm.engine.execute.calls import Calls
from fractal_rm.engine.execute.dataflow import Dataflow
from fractal_rm.engine.execute.failed_attempts import FailedAttempts
from fractal_rm.engine.execute.foreach import ForEachCalls
from fractal_rm.engine.execute.pauses import Pauses
from fractal_rm.engine.execute.sub_flow import SubFlows
from fractal_rm.engine.execute.undo import UndoSteps
from fractal_rm.engine.execute.unnumbered import UnnumberedSteps
from fractal_rm.engine.new_runs import NewRuns
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.queue import RunQueue
from fractal_rm.engine.recorder import Recorder

Ending = Union[Settled, ResumeLater]
_SUCCEEDED = Settled(State.SUCCEEDED)


class Executor:
    """Executes the steps of a run that are not finished."""

    def __init__(
        self,
        dependencies: Dependencies,
        runs: OpenRuns,
        recorder: Recorder,
        new_runs: NewRuns,
        queue: RunQueue,
    ) -> None:
        self._telemetry = dependencies.telemetry
        self._runs = runs
        self._timers = dependencies.timers
        self._budgets = Budgets(dependencies)
        self._pauses = pauses = Pauses(dependencies.timers)
        failed_attempts = FailedAttempts(dependencies, recorder, pauses)
        self._calls = Calls(
            dependencies, runs, recorder, queue.pace, self._budgets, failed_attempts, pauses
        )
        self.gates = self._calls.gates  # the gates of the components
        self._foreach = ForEachCalls(self._calls)
        self._unnumbered = UnnumberedSteps(dependencies, recorder, failed_attempts, pauses)
        self._undo_steps = UndoSteps(self._calls, recorder)
        self._sub_flows = SubFlows(
            dependencies,
            runs,
            recorder,
            new_runs,
            queue,
            self._budgets,
            self._execute_child,
            self.undo,
            self._cancel,
            failed_attempts,
        )
        self._dataflow = Dataflow(
            self._execute_step,
            recorder.record,
            self._sub_flows.has_child,
            self._sub_flows.withdraw_permit,
            queue.permits,
            dependencies.timers,
        )

    def execute(self, run: Run) -> Awaitable[Ending]:
        """Execute the unfinished steps, but no UNDO. Returns how the run ends, or ResumeLater.

        If the run is cancelled, no other step begins, and the result is not used: `cancel` follows.
        """
        if run.stopping is not None or run.cancel is not None:
            return self._ending_of_stopped(run)
        if run.flow.deadline_ms is not UNSET or run.accepted.budget_ms is not UNSET:
            return self._steps_before_deadline(run)
        return self._steps(run)

    def undo(self, run: Run, ending: Settled) -> Awaitable[Settled]:
        """Undo the finished steps if the run did not succeed; see `UndoSteps.undo`."""
        return self._undo_steps.undo(run, ending)

    async def cancel(self, run: Run, request: CancelRequested) -> Settled:
        """End a cancelled run: end its child runs, and undo its steps. Returns how it ends."""
        ending, _ = await self._cancel(run, request)
        return ending

    def end_pauses(self, run: Run) -> None:
        """End the pauses of a cancelled run in flight, and those of its descendants."""
        self._pauses.end(run)
        for child in self._runs.children(run):
            if child.stopping is None:  # the pauses between attempts of an UNDO stay
                self.end_pauses(child)

    def set_aside_children(self, run: Run) -> Awaitable[None]:
        """Set aside all open descendants of a run that is set aside."""
        return self._sub_flows.set_aside(run)

    async def set_aside_after(self, run: Run, error: Exception) -> Dead:
        """Log an unexpected exception, and set aside the child runs. Returns how the run ends."""
        self._telemetry.problem("run_internal_error", run=run.id, error=repr(error), exc_info=error)
        await self.set_aside_children(run)
        return dead_by_fault(error)

    # --- steps ----------------------------------------------------------------------------------

    async def _steps(self, run: Run) -> Ending:
        if run.flow.order is Order.DATAFLOW:
            return await self._dataflow.execute(run)
        make = self._calls.make
        for step in run.flow.steps[run.progress.position :]:
            if isinstance(step, Call) and (step.options is UNSET or step.options.foreach is None):
                ending = await make(run, step)
            else:
                ending = await self._execute_step(run, run.progress.position, step)
            if ending is not None:
                return ending
            if run.cancel is not None:
                break
        return _SUCCEEDED

    async def _execute_step(self, run: Run, position: int, step: Step) -> Ending | None:
        """Execute a step. Returns None if the step is done; else how the run ends or resumes."""
        if isinstance(step, Call):
            if step.options is not UNSET and step.options.foreach is not None:
                return await self._foreach.make(run, step, step.options.foreach)
            return await self._calls.make(run, step)
        if isinstance(step, SubFlow):
            return await self._sub_flows.execute(run, step)
        return await self._unnumbered.execute(run, position, step)

    # --- deadlines ------------------------------------------------------------------------------

    async def _steps_before_deadline(self, run: Run) -> Ending:
        """Execute the steps, and cancel them at the deadline of the run."""
        left_s = self._budgets.begin(run, self._runs.parent(run))
        ending = None
        try:
            if left_s is None:
                return await self._steps(run)
            ending = await self._timers.within(left_s * 1000, self._steps(run))
        except (asyncio.TimeoutError, TimeIsUp) as error:
            if left_s is None:
                raise TimeIsUp from error
        finally:
            left_s = self._budgets.end(run)
        if isinstance(ending, ResumeLater):
            return ResumeLater(min(ending.after_s, left_s))
        return ending or await self._expire(run)

    async def _expire(self, run: Run) -> Settled:
        """Expire the child runs of a run whose deadline has passed. Returns how the run ends."""
        numbered = [step for step in run.flow.steps if isinstance(step, (Call, SubFlow))]
        progress = f"{len(run.progress.results)} of {len(numbered)} calls were made"
        calls = await self._sub_flows.expire(run, f"the deadline of run {run.id} has passed")
        deadline_s = (time_left_ms(run, run.steady_ms) or 0) / 1000
        reason = (
            f"the deadline of {deadline_s:g} s ended when {progress}{in_doubt_words(calls, run.id)}"
        )
        return Settled(State.EXPIRED, reason, Cause.DEADLINE)

    # --- endings --------------------------------------------------------------------------------

    async def _ending_of_stopped(self, run: Run) -> Ending:
        """The ending of a run that was being undone at a crash, or is cancelled."""
        return ending_before_undo(run) or _SUCCEEDED

    async def _cancel(
        self, run: Run, request: CancelRequested
    ) -> tuple[Settled, dict[str, list[str]]]:
        """End a cancelled run. Returns the ending, and the calls in doubt by run id."""
        calls = await self._sub_flows.cancel_children(run, request)
        ending = ending_before_undo(run) or cancelled(request, in_doubt_words(calls, run.id))
        return await self.undo(run, ending), calls

    async def _execute_child(self, run: Run) -> Settled | Dead | ResumeLater:
        """Execute a child run, and undo it if it failed or is cancelled."""
        try:
            ending = await self.execute(run)
            if run.cancel is not None:
                return await self.cancel(run, run.cancel)
            return ending if isinstance(ending, ResumeLater) else await self.undo(run, ending)
        except TimeIsUp:
            raise
        except Exception as error:  # noqa: BLE001 - the parent run is not at fault
            return await self.set_aside_after(run, error)
