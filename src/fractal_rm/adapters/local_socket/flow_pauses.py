"""Pauses and resumes flows: writes the control file, and tells the node of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from fractal_rm.config.control import (
    ControlNotWritten,
    ControlUnreadable,
    read_control,
    store_flow_pause,
)
from fractal_rm.domain.actions import (
    ActionDone,
    CannotActNow,
    NoSuchTarget,
    PauseFlow,
    ResumeFlow,
)
from fractal_rm.domain.findings import did_you_mean
from fractal_rm.domain.flow_pause import FlowPause


class FlowPauses:
    """Pauses and resumes the flows of a state folder, also if no node runs.

    ``flows`` are the ids in flows.conf. ``apply`` gets all pauses after a change. Other processes
    of the node apply them at their next look at the control file.
    """

    def __init__(
        self,
        state: Path,
        flows: Callable[[], Collection[str]],
        now_ms: Callable[[], int],
        apply: Callable[[Mapping[str, FlowPause]], None],
    ) -> None:
        self._state = state
        self._flows = flows
        self._now_ms = now_ms
        self._apply = apply

    async def act(self, action: PauseFlow | ResumeFlow, actor: str) -> ActionDone:
        """Pause or resume a flow. Raises NoSuchTarget, CannotActNow."""
        pause = FlowPause(actor, self._now_ms()) if isinstance(action, PauseFlow) else None
        try:
            before = await asyncio.to_thread(self._pauses)
            is_paused = action.flow in before
            # The pause of a flow that flows.conf no longer has can be ended.
            if action.flow not in self._flows() and not (pause is None and is_paused):
                raise self._no_such_flow(action.flow)
            control = await asyncio.to_thread(store_flow_pause, self._state, action.flow, pause)
        except OSError as error:
            raise CannotActNow(f"the control file cannot be read: {error}") from None
        except ControlNotWritten as error:
            raise CannotActNow(error.reason) from None
        self._apply(control.paused_flows)
        return ActionDone(flow=action.flow, repeated=is_paused == (pause is not None))

    def _pauses(self) -> Mapping[str, FlowPause]:
        try:
            return read_control(self._state).paused_flows
        except ControlUnreadable:  # it is replaced
            return {}

    def _no_such_flow(self, flow: str) -> NoSuchTarget:
        hint = did_you_mean(flow, self._flows()) or "`fractal-rm flows list` shows the flows"
        return NoSuchTarget(f"flows.conf has no flow {flow[:40]}; {hint}")
