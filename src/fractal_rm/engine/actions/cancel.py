"""Cancel: end an open run, wherever it is: waiting, parked, or being executed.

A run that only waits ends at once. Any other run gets the fact `CancelRequested`, and ends in its
turn (`Executor.cancel`), also after a crash: its child runs end first, and its steps are undone.
"""

from __future__ import annotations

from msgspec import UNSET

from fractal_rm.domain.actions import ActionDone, ActionRequest, Cancel
from fractal_rm.domain.cancelling import cancelled, check_can_cancel, needs_turn
from fractal_rm.domain.facts import CancelRequested, Released
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.lifecycle import Lifecycle
from fractal_rm.engine.recover import Recovery


class CancelRuns:
    """Cancels the open runs of this process."""

    def __init__(
        self, dependencies: Dependencies, lifecycle: Lifecycle, recovery: Recovery
    ) -> None:
        self._dependencies = dependencies
        self._lifecycle = lifecycle
        self._recovery = recovery
        self._runs = lifecycle.runs

    async def cancel(self, run: Run, action: Cancel, asked: ActionRequest) -> ActionDone:
        """Cancel an open run. The request is durable when this returns. Raises ActionRefused."""
        if run.cancel is not None and run.cancel.request == asked.request_id:
            return ActionDone(run.id, run.state, repeated=True)
        request = CancelRequested(asked.actor, action.cut, action.undo, asked.request_id)
        check_can_cancel(run, self._root_id(run), request)
        has_children = bool(self._runs.children(run))
        if needs_turn(run, request, has_children=has_children) or not self._withdraw(run):
            self._cancel_in_turn(run, request)
        elif run.accepted.reply_topic is UNSET:
            await self._lifecycle.end(run, cancelled(request))
        else:
            self._lifecycle.recorder.record(run, request)
            self._lifecycle.end_later(run, cancelled(request))
        await self._dependencies.journal.durable
        return ActionDone(run.id, run.state)

    def _cancel_in_turn(self, run: Run, request: CancelRequested) -> None:
        """Let a run end in its next turn, or, if it is in flight, after its current step."""
        self._record(run, request)
        if run.state is State.PARKED:
            at = self._dependencies.clock.moment()
            self._recovery.release(run, Released(request.actor, request.request or UNSET, at))
        else:
            self._lifecycle.interrupt(run, cut=request.cut)

    def _record(self, run: Run, request: CancelRequested) -> None:
        """Record the request for a run and its descendants, in one write."""
        self._lifecycle.recorder.record(run, request)
        for child in self._runs.children(run):
            if child.stopping is None:  # otherwise it ends already, and its steps are undone
                self._record(child, request)

    def _withdraw(self, run: Run) -> bool:
        """Take a waiting or parked run out of the queue. Returns False if it is in flight."""
        queue = self._lifecycle.queue
        if queue.withdraw(run):
            return True
        if run.state is not State.PARKED:
            return False
        queue.hold(run)
        return True

    def _root_id(self, run: Run) -> str:
        """The id of the outermost run above a run."""
        parent = self._runs.parent(run)
        return run.id if parent is None else self._root_id(parent)
