"""RUN: execute another flow as a child run, in the slot of its parent.

The last fact of the child and the result of the parent's step are recorded in one turn of the event
loop. After a crash, the disk has both or neither, so no parent waits for a child that has ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Union

from fractal_rm.domain.body import ORIGINAL_ERROR, SKIPPED, content_json
from fractal_rm.domain.cancelling import cancelled
from fractal_rm.domain.cause import Cause, Failure
from fractal_rm.domain.condition import is_true
from fractal_rm.domain.evaluation_context import EvaluationContext
from fractal_rm.domain.facts import CancelRequested, Dead, Finished, Settled
from fractal_rm.domain.flow import OnError, SubFlow
from fractal_rm.domain.flow_errors import CannotEvaluate, NotConfigured
from fractal_rm.domain.in_doubt import calls_in_doubt, in_doubt_words
from fractal_rm.domain.outcome import ResumeLater
from fractal_rm.domain.result import NULL, StepResult, fields_of_result
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.execute.budgets import Budgets
from fractal_rm.engine.execute.failed_attempts import FailedAttempts, failure_in, last_failure
from fractal_rm.engine.new_runs import NewRuns
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.queue import RunQueue
from fractal_rm.engine.recorder import Recorder
from fractal_rm.engine.request import context_of

MAX_DEPTH = 16
MAX_CHILD_REASON = 2_000  # characters of a child's reason in the reason of its parent
# A run that waits for a permit resumes when it gets the permit. It also repeats the request after
# this time, to detect a deadlock that a lowered LIMIT has caused.
PERMIT_RECHECK_S = 10.0

RunEnding = Union[Settled, Dead, ResumeLater]
ExecuteRun = Callable[[Run], Awaitable[RunEnding]]
Undo = Callable[[Run, Settled], Awaitable[Settled]]
# Ends a cancelled run. Returns the ending, and the calls in doubt by run id.
CancelRun = Callable[[Run, CancelRequested], Awaitable[tuple[Settled, dict[str, list[str]]]]]


class _ResultLost(CannotEvaluate):
    """The child run ended in an earlier process, and the step did not get its result."""

    code = Cause.SUB_FLOW.text


class SubFlows:
    """Begins the child run of a step once, and executes it. Its reply is the result of the step."""

    def __init__(
        self,
        dependencies: Dependencies,
        runs: OpenRuns,
        recorder: Recorder,
        new_runs: NewRuns,
        queue: RunQueue,
        budgets: Budgets,
        execute_run: ExecuteRun,
        undo: Undo,
        cancel_run: CancelRun,
        failed_attempts: FailedAttempts,
    ) -> None:
        self._dependencies = dependencies
        self._runs = runs
        self._recorder = recorder
        self._new_runs = new_runs
        self._queue = queue
        self._budgets = budgets
        self._execute_run = execute_run
        self._undo = undo
        self._cancel_run = cancel_run
        self._failed_attempts = failed_attempts

    async def execute(self, run: Run, step: SubFlow) -> Settled | ResumeLater | None:
        """Execute a RUN step. Returns None if it is done; else how ``run`` ends or resumes."""
        last = last_failure(run, str(step.number))
        if last is not None and last.final is True:
            return self._fail(run, step, failure_in(last))
        try:
            child = await self._child(run, step)
        except CannotEvaluate as fault:
            self.withdraw_permit(run, step)
            return self._fail(run, step, Failure.of(fault))
        if not isinstance(child, Run):
            return child
        if run.cancel is not None:
            self._pass_on(run.cancel, child)  # it was cancelled while the child began
        ending = await self._execute_child(child)
        if isinstance(ending, ResumeLater):
            return ResumeLater(ending.after_s)
        run_ending = self._apply_end_of_child(run, step, child, ending)
        await self._settle_child(child, ending)
        return run_ending

    async def expire(self, run: Run, reason: str) -> dict[str, list[str]]:
        """Expire the open child runs of a run whose deadline has passed.

        Returns the calls in doubt: calls of the run and its descendants, by run id, that may have
        been made.
        """
        own_calls = calls_in_doubt(run)
        calls = {run.id: own_calls} if own_calls else {}
        for child in self._runs.children(run):
            child_calls = await self.expire(child, reason)
            child_reason = reason + in_doubt_words(child_calls, child.id)
            ending = await self._undo(child, Settled(State.EXPIRED, child_reason, Cause.DEADLINE))
            await self._settle_child(child, ending)
            calls |= child_calls
        return calls

    async def cancel_children(self, run: Run, request: CancelRequested) -> dict[str, list[str]]:
        """End the open child runs of a cancelled run. Returns the calls in doubt; see `expire`."""
        own_calls = calls_in_doubt(run)
        calls = {run.id: own_calls} if own_calls else {}
        for child in self._runs.children(run):
            self._pass_on(request, child)
            ending, child_calls = await self._cancel_run(child, request)
            await self._settle_child(child, ending)
            calls |= child_calls
        return calls

    def _pass_on(self, request: CancelRequested, child: Run) -> None:
        """Cancel a child run of a cancelled run, unless that is recorded already."""
        if child.cancel is None and child.stopping is None:
            self._recorder.record(child, request)

    async def set_aside(self, run: Run) -> None:
        """Set aside all open descendants of a run that is set aside."""
        for child in self._runs.children(run):
            await self.set_aside(child)
            reason = f"its parent run {run.id} is set aside"
            await self._settle_child(child, Dead(Cause.PARENT.text, reason))

    def has_child(self, run: Run, step: SubFlow) -> bool:
        """Whether the step has an open child run."""
        return self._runs.child(run, step.number) is not None

    def withdraw_permit(self, run: Run, step: SubFlow) -> None:
        """Withdraw the permit request of a step that begins no child run."""
        self._queue.withdraw_request(run, step.number, step.flow)

    def _context(self, run: Run) -> EvaluationContext:
        return context_of(run, self._dependencies.config.bounds)

    # --- begin a child --------------------------------------------------------------------------

    async def _child(self, run: Run, step: SubFlow) -> Run | Settled | ResumeLater | None:
        """Return the child run of a step, and begin it if necessary.

        If no child run can begin now, return the outcome of the step. Raises CannotEvaluate.
        """
        child = self._runs.child(run, step.number)
        if child is not None:
            return child
        if run.cancel is not None:
            return cancelled(run.cancel)
        if step.when is not None and not is_true(step.when, self._context(run)):
            self._record_result(run, step, SKIPPED)
            return None
        if not self._queue.permits.request(run, step.number, step.flow):
            return ResumeLater(PERMIT_RECHECK_S, has_begun=False)
        return await self._begin_child(run, step)

    async def _begin_child(self, run: Run, step: SubFlow) -> Run | Settled:
        """Begin a child run. Returns Settled if the step had a child run that ended as unknown.

        Raises CannotEvaluate if no child run can begin.
        """
        flow = self._dependencies.config.flows.get(step.flow)
        if flow is None:
            raise NotConfigured(f"flows.conf has no flow {step.flow!r:.60}")
        if self._depth(run) >= MAX_DEPTH:
            raise CannotEvaluate(f"RUN steps can be nested at most {MAX_DEPTH} deep")
        payload = content_json(step.content, self._context(run))
        left_s = self._budgets.left_s(run)
        budget_ms = None if left_s is None else max(0, round(left_s * 1000))
        child = await self._new_runs.begin_child(run, step.number, flow, payload, budget_ms)
        if isinstance(child, Run):
            return child
        state = child.state.value
        reason = (
            f"child run {child.run_id} ended as {state} before a restart, and its result was lost"
        )
        if child.state is State.UNKNOWN:
            self.withdraw_permit(run, step)
            return Settled(State.UNKNOWN, f"{label_of(step)}: {reason}", Cause.SUB_FLOW)
        raise _ResultLost(reason)

    def _depth(self, run: Run) -> int:
        """The number of runs above a run."""
        depth, parent = 0, self._runs.parent(run)
        while parent is not None:
            depth, parent = depth + 1, self._runs.parent(parent)
        return depth

    # --- end a child ----------------------------------------------------------------------------

    async def _execute_child(self, child: Run) -> RunEnding:
        """Execute a child in the slot of its parent, and count the memory that it uses."""
        slots = self._queue.slots
        slots.count_results(child.payload_bytes + child.progress.result_bytes)
        try:
            return await self._execute_run(child)
        finally:
            slots.count_results(-child.payload_bytes - child.progress.result_bytes)

    def _apply_end_of_child(
        self, run: Run, step: SubFlow, child: Run, ending: Settled | Dead
    ) -> Settled | None:
        """Record the result of a child in its parent. Returns how the parent ends.

        Returns None if the parent continues.
        """
        state = ending.state if isinstance(ending, Settled) else State.DEAD
        if state is State.SUCCEEDED:
            reply = child.progress.reply
            self._record_result(run, step, NULL if reply is None else reply)
            return None
        if run.cancel is not None:
            return cancelled(run.cancel)
        reason = ending.reason
        if len(reason) > MAX_CHILD_REASON:
            reason = reason[:MAX_CHILD_REASON] + "…"  # the start names the first cause
        failure = Failure(Cause.SUB_FLOW, f"child run {child.id} is {state.value}: {reason}")
        if state is State.UNKNOWN:
            return Settled(State.UNKNOWN, f"{label_of(step)}: {failure.reason}", failure.cause)
        _ = self._failed_attempts.record(run, step.number, 1, failure, None)
        return self._fail(run, step, failure)

    async def _settle_child(self, child: Run, ending: Settled | Dead) -> None:
        notified = self._recorder.settle(child, ending)
        if self._queue.permits.in_use:
            self._queue.release_permits(child)
        if notified is not None:
            await notified

    def _fail(self, run: Run, step: SubFlow, failure: Failure) -> Settled | None:
        if run.flow.errors is not OnError.CONTINUE:
            return Settled(State.FAILED, f"{label_of(step)}: {failure.reason}", failure.cause)
        self._record_result(run, step, ORIGINAL_ERROR)
        return None

    def _record_result(self, run: Run, step: SubFlow, result: StepResult) -> None:
        json, data = fields_of_result(result)
        self._recorder.record(run, Finished(step.number, 0, 0, json, data=data))


def label_of(step: SubFlow) -> str:
    """The name of a step, for reasons of runs."""
    return f"step {step.number}, RUN {step.flow}"
