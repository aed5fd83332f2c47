"""Discard: mark an ended run or a dead letter. It needs no more attention, and stays as it is."""

from __future__ import annotations

from fractal_rm.domain.actions import (
    ActionDone,
    ActionRequest,
    CannotActNow,
    Discard,
    NotPossible,
    WrongState,
)
from fractal_rm.domain.facts import Discarded
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.run import Run
from fractal_rm.engine.actions.past_runs import PastRunReader, has_request
from fractal_rm.engine.actions.repeat import already_handled
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.lifecycle import Lifecycle

MAX_NOTE = 1_000  # characters


class DiscardRuns:
    """Marks ended runs of the journal of this process."""

    def __init__(
        self, dependencies: Dependencies, lifecycle: Lifecycle, past_runs: PastRunReader
    ) -> None:
        self._dependencies = dependencies
        self._recorder = lifecycle.recorder
        self._past_runs = past_runs

    async def discard(self, action: Discard, request: ActionRequest) -> ActionDone:
        """Mark a run durably. Raises ActionRefused."""
        if len(action.note) > MAX_NOTE:
            raise NotPossible(f"a note has at most {MAX_NOTE} characters", run=action.run)
        detail = await self._past_runs.detail(action.run)
        summary = detail.summary
        if has_request(detail, request.request_id):
            return ActionDone(summary.id, summary.state, repeated=True)
        if not summary.state.final:
            raise WrongState(
                f"run {summary.id} has not ended: it is {summary.state.value}; cancel it first",
                run=summary.id,
                state=summary.state,
            )
        handled = await self._past_runs.handled(summary.id)
        if handled is not None:
            raise already_handled(summary.id, summary.state, handled)
        if summary.journal != self._dependencies.journal_name:
            raise CannotActNow(
                f"run {summary.id} is in {summary.journal}.journal, which another process writes",
                run=summary.id,
                state=summary.state,
            )
        flow = Flow(summary.flow or "")
        run = Run(summary.id, flow, summary.accepted_ms, state=summary.state, reason=summary.reason)
        fact = Discarded(request.actor, action.note, request.request_id)
        await self._recorder.record_durably(run, fact)
        return ActionDone(summary.id, summary.state)
