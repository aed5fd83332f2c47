"""The port `Actions` for the runs of one process."""

from __future__ import annotations

from fractal_rm.domain.actions import (
    ActionDone,
    ActionRequest,
    Cancel,
    CannotActNow,
    NoSuchTarget,
    NotPossible,
)
from fractal_rm.engine.actions.cancel import CancelRuns
from fractal_rm.engine.actions.run_locks import RunLocks
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.lifecycle import Lifecycle
from fractal_rm.engine.recover import Recovery


class NodeActions:
    """Does actions on the runs of this process; see the port `Actions`.

    Two actions on one run are done one after the other, so the second sees what the first has done.
    """

    def __init__(
        self, dependencies: Dependencies, lifecycle: Lifecycle, recovery: Recovery
    ) -> None:
        self._dependencies = dependencies
        self._lifecycle = lifecycle
        self._cancel = CancelRuns(dependencies, lifecycle, recovery)
        self._locks = RunLocks()

    async def act(self, request: ActionRequest) -> ActionDone:
        """Do one action; see the port."""
        self._check_writable()
        action = request.action
        if not isinstance(action, Cancel):
            raise NotPossible(f"this node does not know the action {type(action).__name__}")
        async with self._locks.lock(action.run):
            run = self._lifecycle.runs.get(action.run)
            if run is None:
                raise NoSuchTarget(f"there is no open run {action.run}", run=action.run)
            return await self._cancel.cancel(run, action, request.actor, request.request_id)

    def _check_writable(self) -> None:
        blocked = self._dependencies.journal.blocked
        if blocked is not None:
            raise CannotActNow(f"the journal cannot be written: {blocked.why}")
