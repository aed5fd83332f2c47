"""Carries out what an operator decides about a run that another node may have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fractal_rm.domain.actions import ActionDone, CannotActNow, DecideOffer, WrongState
from fractal_rm.domain.handoff.decided import decision_in
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import History, Intake, Telemetry

EFFECT_LIMIT_S = 15.0  # a decision is carried out in the run's next turn
EFFECT_INTERVAL_S = 0.02
_IN_DOUBT = (State.OFFERED, State.PARKED)


class OfferDecisions:
    """Decides runs of this process, and waits for the effect."""

    def __init__(
        self,
        intake: Intake,
        history: History,
        telemetry: Telemetry,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._intake = intake
        self._history = history
        self._telemetry = telemetry
        self._monotonic_s = monotonic_s

    async def act(self, action: DecideOffer, actor: str) -> ActionDone:
        """Decide a run. Raises WrongState, CannotActNow."""
        if not self._intake.resolve(action.run, action.decision, actor):
            detail = await asyncio.to_thread(self._history.run, action.run)
            state = None if detail is None else detail.summary.state
            if detail is not None and decision_in([each.fact for each in detail.facts]) is (
                action.decision
            ):
                return ActionDone(action.run, state, repeated=True)
            raise WrongState(
                f"run {action.run} is not in doubt, so nothing was changed."
                f" It is {state.value if state else 'not known'}",
                run=action.run,
                state=state,
            )
        self._telemetry.event(
            "operator_decided", run=action.run, decision=action.decision.value, by=actor
        )
        end_s = self._monotonic_s() + EFFECT_LIMIT_S
        while self._intake.state_of(action.run) in _IN_DOUBT:
            if self._monotonic_s() >= end_s:
                raise CannotActNow(
                    f"the decision about run {action.run} was received, but is not carried out yet,"
                    " perhaps because the run waits for an answer of the other node;"
                    f" `fractal-rm runs show {action.run}` shows the run, and you may repeat this",
                    run=action.run,
                )
            await asyncio.sleep(EFFECT_INTERVAL_S)
        return ActionDone(action.run, await self._state_of(action.run))

    async def _state_of(self, run_id: str) -> State | None:
        state = self._intake.state_of(run_id)
        if state is None:
            detail = await asyncio.to_thread(self._history.run, run_id)
            state = None if detail is None else detail.summary.state
        return state
