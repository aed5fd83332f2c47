"""Port `Actions` in memory: runs and flows whose states change as an operator asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping

from msgspec.structs import replace

from fractal_rm.domain.actions import (
    ActionDone,
    ActionRefused,
    ActionRequest,
    AlreadyHandled,
    AnyAction,
    BulkRequest,
    Cancel,
    CountChanged,
    Discard,
    NoSuchTarget,
    NotPossible,
    PauseFlow,
    Release,
    ResumeFlow,
    WrongState,
)
from fractal_rm.domain.state import State
from fractal_rm.engine.ports.actions import BulkProgress


class MemoryActions:
    """Acts on ``runs``, the states of runs by id, and on ``flows``, whether they are paused.

    A run that is executed stays ``running`` after a `Cancel`, until a test changes its state. A
    filter finds runs by their states only.
    """

    def __init__(self, runs: Mapping[str, State], flows: Mapping[str, bool]) -> None:
        self.runs, self.flows = dict(runs), dict(flows)
        self.handled: dict[str, str | None] = {}  # by run: the run that repeats it, if any
        self.requests: list[ActionRequest] = []  # those that were done, in order
        self._done: dict[str, tuple[AnyAction, ActionDone]] = {}  # by request id

    async def act(self, request: ActionRequest) -> ActionDone:
        """Do one action; see the port."""
        await asyncio.sleep(0)  # the journal would be written here
        known = self._done.get(request.request_id)
        if known is not None:
            if known[0] != request.action:
                raise NotPossible("this request id was used for another action")
            return replace(known[1], repeated=True)
        done = self._act(request.action)
        self._done[request.request_id] = request.action, done
        self.requests.append(request)
        return done

    def _act(self, action: AnyAction) -> ActionDone:
        if isinstance(action, (PauseFlow, ResumeFlow)):
            if action.flow not in self.flows:
                raise NoSuchTarget(f"there is no flow {action.flow[:40]}")
            self.flows[action.flow] = isinstance(action, PauseFlow)
            return ActionDone(flow=action.flow)
        state = self.runs.get(action.run)
        if state is None:
            raise NoSuchTarget(f"there is no run {action.run[:40]}")
        if isinstance(action, Cancel):
            return self._cancel(action, state)
        if isinstance(action, Release):
            self._require(state is State.PARKED, action.run, state)
            self.runs[action.run] = State.ACCEPTED
            return ActionDone(action.run, State.ACCEPTED)
        self._require(state.final, action.run, state)
        if isinstance(action, Discard):
            self.handled[action.run] = None
            return ActionDone(action.run, state)
        return self._repeat(action.run, state, again=getattr(action, "again", False))

    def _cancel(self, action: Cancel, state: State) -> ActionDone:
        self._require(not state.final, action.run, state)
        if state is not State.RUNNING:
            self.runs[action.run] = State.CANCELLED
        return ActionDone(action.run, self.runs[action.run])

    def _repeat(self, run: str, state: State, *, again: bool) -> ActionDone:
        if run in self.handled and not again:
            raise AlreadyHandled(
                "the run was repeated or discarded before", run=run, state=state,
                new_run=self.handled[run],
            )  # fmt: skip
        new_run = f"{len(self.runs) + 1:026d}"
        self.runs[new_run] = State.ACCEPTED
        self.handled[run] = new_run
        return ActionDone(run, state, new_run)

    def _require(self, possible: bool, run: str, state: State) -> None:
        if not possible:
            raise WrongState(f"run {run} is {state.value}", run=run, state=state)

    async def act_on_all(self, request: BulkRequest) -> AsyncGenerator[BulkProgress, None]:
        """Act on all matching runs; see the port."""
        if request.filter.is_empty:
            raise NotPossible("an empty filter does not mean all runs")
        states = request.filter.states
        runs = [run for run, state in self.runs.items() if states is None or state in states]
        if abs(len(runs) - request.expect) > max(request.expect, len(runs)) / 10:
            raise CountChanged(f"{len(runs)} runs match, and {request.expect} were expected")
        progress = BulkProgress(len(runs))
        yield progress
        for run in runs:
            action = replace(request.action, run=run)
            one = ActionRequest(action, request.actor, f"{request.request_id}:{run}")
            try:
                _ = await self.act(one)
                progress = replace(progress, done=progress.done + 1)
            except ActionRefused as refusal:
                refusals = dict(progress.refusals)
                refusals[refusal.code] = refusals.get(refusal.code, 0) + 1
                progress = replace(
                    progress, refused=progress.refused + 1, refusals=refusals,
                    last_refusal=str(refusal),
                )  # fmt: skip
            yield progress
        yield replace(progress, finished=True)
