"""The port `Actions` for the runs of one process: one action on a run at a time."""

from __future__ import annotations

from fractal_rm.domain.actions import (
    ActionDone,
    ActionRequest,
    Cancel,
    CannotActNow,
    DecideStep,
    Discard,
    NoSuchTarget,
    NotPossible,
    Release,
    Replay,
    RunAction,
    Send,
    WrongState,
)
from fractal_rm.domain.facts import Settled
from fractal_rm.domain.wall_time import utc_text
from fractal_rm.engine.actions.cancel import CancelRuns
from fractal_rm.engine.actions.discard import DiscardRuns
from fractal_rm.engine.actions.past_runs import PastRunReader, has_request
from fractal_rm.engine.actions.release import ReleaseRuns
from fractal_rm.engine.actions.repeat import RepeatRuns
from fractal_rm.engine.actions.run_locks import RunLocks
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.lifecycle import Lifecycle
from fractal_rm.engine.ports.history import RunDetail
from fractal_rm.engine.recover import Recovery


class NodeActions:
    """Does actions on the runs of this process, and repeats runs of its state folder.

    Two actions on one run are done one after the other, so the second sees what the first has done.
    """

    def __init__(
        self, dependencies: Dependencies, lifecycle: Lifecycle, recovery: Recovery
    ) -> None:
        self._dependencies = dependencies
        self._runs = lifecycle.runs
        self._past_runs = past_runs = PastRunReader(dependencies)
        self._cancel = CancelRuns(dependencies, lifecycle, recovery)
        self._discard = DiscardRuns(dependencies, lifecycle, past_runs)
        self._release = ReleaseRuns(dependencies, recovery, past_runs)
        self._repeat = RepeatRuns(dependencies, lifecycle, past_runs)
        self._locks = RunLocks()

    async def act(self, request: ActionRequest) -> ActionDone:
        """Do one action on a run; see the port `Actions`.

        The process that has the control file pauses flows, and decides offers: not this object.
        """
        action = request.action
        if not isinstance(action, (Cancel, Release, Discard, Replay, DecideStep, Send)):
            raise NotPossible(f"{type(action).__name__} is not an action on one run of a journal")
        blocked = self._dependencies.journal.blocked
        if blocked is not None:
            raise CannotActNow(f"the journal cannot be written: {blocked.why}")
        async with self._locks.lock(action.run):
            return await self._act(action, request)

    async def _act(self, action: RunAction, request: ActionRequest) -> ActionDone:
        if isinstance(action, (Replay, DecideStep, Send)):
            return await self._repeat.repeat(action, request)
        if isinstance(action, Discard):
            return await self._discard.discard(action, request)
        run = self._runs.get(action.run)
        if run is None:
            return await self._not_open(action, request)
        if isinstance(action, Release):
            return await self._release.release(run, request)
        if isinstance(action, Cancel):
            return await self._cancel.cancel(run, action, request)
        raise NotPossible(f"{type(action).__name__} is not an action on one run of a journal")

    async def _not_open(self, action: RunAction, request: ActionRequest) -> ActionDone:
        """Answer an action on an open run if the run is not open here. Raises ActionRefused."""
        detail = await self._past_runs.detail(action.run)
        summary = detail.summary
        if has_request(detail, request.request_id):
            return ActionDone(summary.id, summary.state, repeated=True)
        if not summary.state.final:
            raise NoSuchTarget(
                f"this process does not have run {summary.id}: it is in {summary.journal}.journal",
                run=summary.id,
                state=summary.state,
            )
        raise WrongState(
            f"run {summary.id} has ended as {_end_of(detail)}",
            run=summary.id,
            state=summary.state,
            node=summary.node,
        )


def _end_of(detail: RunDetail) -> str:
    """How a run ended, with who decided it and when, as far as that is known."""
    summary = detail.summary
    actors = [each.fact.actor for each in detail.facts if isinstance(each.fact, Settled)]
    text = summary.state.value
    if summary.node is not None:
        text += f" on node {summary.node}"
    if summary.settled_ms is not None:
        text += f" at {utc_text(summary.settled_ms)}"
    return f"{text}, as {actors[-1]} asked" if actors and isinstance(actors[-1], str) else text
