"""RUN: another flow, as a run of its own that its parent carries.

The last fact of the one and the result of the other are written in one turn, so that they are on
the disk together: a parent never asks how a run ended that has gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Union

from fractal_rm.domain.body import ORIGINAL_ERROR, SKIPPED, content_json
from fractal_rm.domain.cause import Cause, Failure
from fractal_rm.domain.condition import holds
from fractal_rm.domain.errors import CannotEvaluate, NotConfigured
from fractal_rm.domain.facts import Dead, Finished, Settled
from fractal_rm.domain.flow import Errors, SubFlow
from fractal_rm.domain.in_doubt import calls_in_doubt, said_of
from fractal_rm.domain.outcome import Later
from fractal_rm.domain.result import NULL, StepResult, stored
from fractal_rm.domain.run import Run
from fractal_rm.domain.seen import Seen
from fractal_rm.domain.state import State
from fractal_rm.engine.accept import Acceptance
from fractal_rm.engine.execute.budgets import Budgets
from fractal_rm.engine.execute.tries import Tries, failure_in, last_failure
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.queue import RunQueue
from fractal_rm.engine.recorder import Recorder
from fractal_rm.engine.request import seen_by
from fractal_rm.engine.world import World

MOST_DEPTH = 16
MOST_REPEATED = 2_000  # characters of a child's reason; it begins with what the cause was
# A run that waits for a place is told when it has one; this long it takes until it sees that it
# never will, as a LIMIT was lowered.
ASK_AGAIN_S = 10.0

Ended = Union[Settled, Dead, Later]
Carry = Callable[[Run], Awaitable[Ended]]
Undo = Callable[[Run, Settled], Awaitable[Settled]]


class _EndedBefore(CannotEvaluate):
    """The run of a step has ended in an earlier process, and its result was not kept."""

    code = Cause.SUB_FLOW.text


class SubFlows:
    """Begins a child once, carries it, and takes its reply for the result of the step."""

    def __init__(
        self,
        world: World,
        runs: OpenRuns,
        recorder: Recorder,
        acceptance: Acceptance,
        queue: RunQueue,
        budgets: Budgets,
        carry: Carry,
        undo: Undo,
    ) -> None:
        self._world = world
        self._runs = runs
        self._recorder = recorder
        self._acceptance = acceptance
        self._queue = queue
        self._budgets = budgets
        self._carry = carry
        self._undo = undo
        self._tries = Tries(world, recorder)

    async def take(self, run: Run, step: SubFlow) -> Settled | Later | None:
        """Run it. None: the step has its result; otherwise how the run ends or goes on."""
        last = last_failure(run, str(step.number))
        if last is not None and last.final is True:
            return self._fail(run, step, failure_in(last))
        try:
            child = await self._child(run, step)
        except CannotEvaluate as fault:
            self.forgo(run, step)
            return self._fail(run, step, Failure.of(fault))
        if not isinstance(child, Run):
            return child
        ending = await self._carried(child)
        if isinstance(ending, Later):
            return Later(ending.after_s)
        following = self._after(run, step, child, ending)
        await self._close(child, ending)
        return following

    async def expire(self, run: Run, why: str) -> dict[str, list[str]]:
        """The time of a run has ended: so has that of the children that it was carrying.

        Returns the calls that may have been made, by run: its own, and those of runs within it.
        """
        own = calls_in_doubt(run)
        found = {run.id: own} if own else {}
        for child in self._runs.children(run):
            of_child = await self.expire(child, why)
            reason = why + said_of(of_child, child.id)
            ending = await self._undo(child, Settled(State.EXPIRED, reason, Cause.DEADLINE))
            await self._close(child, ending)
            found |= of_child
        return found

    async def set_aside(self, run: Run) -> None:
        """A run is set aside: so are the children that it was carrying, with all that they did."""
        for child in self._runs.children(run):
            await self.set_aside(child)
            why = f"run {run.id}, which it belongs to, is set aside"
            await self._close(child, Dead(Cause.PARENT.text, why))

    def under_way(self, run: Run, step: SubFlow) -> bool:
        """Whether its child is there and has no end yet."""
        return self._runs.child(run, step.number) is not None

    def forgo(self, run: Run, step: SubFlow) -> None:
        """It begins no run: a place that it has, or waits for, is for others."""
        self._queue.withdraw_request(run, step.number, step.flow)

    def _seen(self, run: Run) -> Seen:
        return seen_by(run, self._world.config.bounds)

    # --- the beginning --------------------------------------------------------------------------

    async def _child(self, run: Run, step: SubFlow) -> Run | Settled | Later | None:
        """The run of a step, begun where it is not yet; or what comes of the step without one.

        Raises CannotEvaluate.
        """
        child = self._runs.child(run, step.number)
        if child is not None:
            return child
        if step.when is not None and not holds(step.when, self._seen(run)):
            self._put(run, step, SKIPPED)
            return None
        if not self._queue.permits.request(run, step.number, step.flow):
            return Later(ASK_AGAIN_S, begun=False)
        return await self._begun(run, step)

    async def _begun(self, run: Run, step: SubFlow) -> Run | Settled:
        """A new child, durable. Settled: it had one, and what that did is in doubt.

        Raises CannotEvaluate where there can be none.
        """
        flow = self._world.config.flows.get(step.flow)
        if flow is None:
            raise NotConfigured(f"flows.conf has no flow {step.flow!r:.60}")
        if self._depth(run) >= MOST_DEPTH:
            raise CannotEvaluate(f"flows that run flows are at most {MOST_DEPTH} deep")
        payload = content_json(step.content, self._seen(run))
        left_s = self._budgets.left_s(run)
        budget_ms = None if left_s is None else max(0, round(left_s * 1000))
        child = await self._acceptance.begin_child(run, step.number, flow, payload, budget_ms)
        if isinstance(child, Run):
            return child
        why = f"its run {child.run_id} ended as {child.state.value} without it"
        if child.state is State.UNKNOWN:
            self.forgo(run, step)
            return Settled(State.UNKNOWN, f"{words_of(step)}: {why}", Cause.SUB_FLOW)
        raise _EndedBefore(why)

    def _depth(self, run: Run) -> int:
        """How many runs above it carry it."""
        depth, parent = 0, self._runs.parent(run)
        while parent is not None:
            depth, parent = depth + 1, self._runs.parent(parent)
        return depth

    # --- the end --------------------------------------------------------------------------------

    async def _carried(self, child: Run) -> Ended:
        """In the parent's own slot: what the child keeps in memory is counted meanwhile."""
        slots = self._queue.slots
        slots.count_results(child.payload_bytes + child.result_bytes)
        try:
            return await self._carry(child)
        finally:
            slots.count_results(-child.payload_bytes - child.result_bytes)

    def _after(self, run: Run, step: SubFlow, child: Run, ending: Settled | Dead) -> Settled | None:
        """What the end of the child is for its parent, written in the same turn."""
        state = ending.state if isinstance(ending, Settled) else State.DEAD
        if state is State.SUCCEEDED:
            self._put(run, step, NULL if child.reply is None else child.reply)
            return None
        reason = ending.reason
        if len(reason) > MOST_REPEATED:
            reason = reason[:MOST_REPEATED] + "…"
        why = Failure(Cause.SUB_FLOW, f"its run {child.id} is {state.value}: {reason}")
        if state is State.UNKNOWN:
            return Settled(State.UNKNOWN, f"{words_of(step)}: {why.reason}", why.cause)
        _ = self._tries.failed(run, step.number, 1, why, None)
        return self._fail(run, step, why)

    async def _close(self, child: Run, ending: Settled | Dead) -> None:
        durable = self._recorder.settle(child, ending)
        if self._queue.permits.in_use:
            self._queue.release_permits(child)
        await durable

    def _fail(self, run: Run, step: SubFlow, why: Failure) -> Settled | None:
        if run.flow.errors is not Errors.CONTINUE:
            return Settled(State.FAILED, f"{words_of(step)}: {why.reason}", why.cause)
        self._put(run, step, ORIGINAL_ERROR)
        return None

    def _put(self, run: Run, step: SubFlow, result: StepResult) -> None:
        json, data = stored(result)
        self._recorder.record(run, Finished(step.number, 0, 0, json, data=data))


def words_of(step: SubFlow) -> str:
    """A step as a reason names it."""
    return f"step {step.number}, RUN {step.flow}"
