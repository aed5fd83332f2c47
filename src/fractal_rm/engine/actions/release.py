"""Release: resume a parked run."""

from __future__ import annotations

from msgspec import UNSET

from fractal_rm.domain.actions import ActionDone, ActionRequest, WrongState
from fractal_rm.domain.facts import Released
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.engine.actions.past_runs import PastRunReader, has_request
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.recover import Recovery


class ReleaseRuns:
    """Resumes the parked runs of this process."""

    def __init__(
        self, dependencies: Dependencies, recovery: Recovery, past_runs: PastRunReader
    ) -> None:
        self._dependencies = dependencies
        self._recovery = recovery
        self._past_runs = past_runs

    async def release(self, run: Run, request: ActionRequest) -> ActionDone:
        """Resume a parked run. The request is durable when this returns. Raises WrongState."""
        if run.state is not State.PARKED:
            detail = await self._past_runs.detail(run.id)
            if has_request(detail, request.request_id):
                return ActionDone(run.id, run.state, repeated=True)
            raise WrongState(
                f"run {run.id} is not parked: it is {run.state.value}", run=run.id, state=run.state
            )
        at = self._dependencies.clock.moment()
        self._recovery.release(run, Released(request.actor, request.request_id or UNSET, at))
        await self._dependencies.journal.durable
        return ActionDone(run.id, run.state)
