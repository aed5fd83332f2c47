"""Decides whether and how an operator's request to cancel a run is carried out."""

from __future__ import annotations

import msgspec
from msgspec import UNSET

from fractal_rm.domain.actions import ActionRefused, AtOtherNode, WrongState
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import CancelRequested, Replying, Settled, Stopping
from fractal_rm.domain.flow import Call, Flow
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import OFFERED, State


def check_can_cancel(run: Run, root_id: str, request: CancelRequested) -> None:
    """Raise ActionRefused if an open run cannot be cancelled now.

    ``root_id``: the id of the outermost run above this one; its own id if it has no parent.
    """
    refusal = _refusal(run, root_id, request)
    if refusal is not None:
        raise refusal


def _refusal(run: Run, root_id: str, request: CancelRequested) -> ActionRefused | None:
    if run.placement in OFFERED:
        return AtOtherNode(
            f"run {run.id} is offered to node {run.node}, which may have it. Look for it there."
            " If that node does not have it, decide that it is executed here, and cancel it then",
            run=run.id,
            state=run.state,
            node=run.node,
        )
    why = _why_not(run, root_id, request)
    return None if why is None else WrongState(why, run=run.id, state=run.state)


def _why_not(run: Run, root_id: str, request: CancelRequested) -> str | None:
    """Why a run that is not offered cannot be cancelled now; None: it can."""
    if root_id != run.id:
        return f"run {run.id} is a part of run {root_id}: cancel run {root_id} instead"
    if run.replying is not None:
        state = run.replying.state.value
        return f"run {run.id} has ended as {state}, and only its reply is left to send"
    if run.stopping is not None:
        state = run.stopping.state.value
        return f"run {run.id} ends as {state}, and its finished steps are being undone"
    earlier = run.cancel
    if earlier is not None and (earlier.cut or not request.cut):
        way_out = "" if earlier.cut else "; with `cut`, the step in flight is ended at once"
        return f"{earlier.actor} has already asked to cancel run {run.id}{way_out}"
    return None


def needs_turn(run: Run, request: CancelRequested, *, has_children: bool) -> bool:
    """Whether a waiting run must be executed to be cancelled: its steps or child runs end first."""
    return has_children or run.stopping is not None or (request.undo and has_steps_to_undo(run))


def has_steps_to_undo(run: Run) -> bool:
    """Whether a finished step of a run has an UNDO."""
    return bool(steps_to_undo(run))


def steps_to_undo(run: Run) -> list[int]:
    """The numbers of the finished steps that have an UNDO."""
    return [number for number in _steps_with_undo(run.flow) if number in run.progress.results]


def _steps_with_undo(flow: Flow) -> list[int]:
    return [
        step.number
        for step in flow.steps
        if isinstance(step, Call) and step.options is not UNSET and step.options.undo is not None
    ]


def cancelled(request: CancelRequested, words: str = "") -> Settled:
    """The end of a cancelled run. ``words`` are added to the reason."""
    return Settled(
        State.CANCELLED,
        f"{request.actor} cancelled the run{words}",
        Cause.OPERATOR,
        actor=request.actor,
        request=request.request or UNSET,
    )


def ending_if_cancelled(run: Run) -> Settled | None:
    """How a run ends instead of its next step; None: it is not cancelled."""
    return None if run.cancel is None else cancelled(run.cancel)


def ending_before_reply(run: Run) -> Settled | None:
    """How a run ends whose reply was being sent in an earlier turn or process; None: it was not."""
    return None if run.replying is None else _recorded_ending(run, run.replying)


def ending_before_undo(run: Run) -> Settled | None:
    """How a run ends whose steps were being undone at a crash; None: they were not."""
    return None if run.stopping is None else _recorded_ending(run, run.stopping)


def _recorded_ending(run: Run, fact: Stopping | Replying) -> Settled:
    """The ending in a fact, with the operator who cancelled the run."""
    if run.cancel is None or fact.state is not State.CANCELLED:
        return Settled(fact.state, fact.reason, fact.cause)
    return msgspec.structs.replace(cancelled(run.cancel), reason=fact.reason)
