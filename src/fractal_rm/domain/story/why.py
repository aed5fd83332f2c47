"""The sentence at the top of a story: why the run is as it is."""

from __future__ import annotations

from msgspec import UNSET

from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import (
    CancelRequested,
    Dead,
    Discarded,
    Finished,
    Offered,
    OfferInDoubt,
    Parked,
    Placed,
    Probed,
    Settled,
    StepFailed,
    StepUndone,
    none_if_unset,
)
from fractal_rm.domain.state import State
from fractal_rm.domain.story.find import (
    cause_of,
    failed_step,
    is_undo,
    last,
    lost_step,
    time_of_last,
)
from fractal_rm.domain.story.steps import Steps
from fractal_rm.domain.story.values import RunToTell
from fractal_rm.domain.story.waiting import why_waiting
from fractal_rm.domain.story.why_failed import why_step_failed
from fractal_rm.domain.story.words import count, cut, duration, listed, sentence


def why(told: RunToTell, steps: Steps) -> str:
    """Why a run is in its state, in one to three sentences."""
    text = _BY_STATE[told.state](told, steps)
    extra = [_twice(told), _undone(told, steps), _handled(told)]
    return " ".join(part for part in (text, *extra) if part)


# --- ended ----------------------------------------------------------------------------------------


def _succeeded(told: RunToTell, steps: Steps) -> str:
    took = duration((told.settled_ms or told.now_ms) - told.accepted_ms)
    retried = sorted({fact.step for _, fact in told.facts
                      if isinstance(fact, StepFailed) and fact.retry_at is not UNSET})  # fmt: skip
    total = steps.total
    done = _all_steps(total) if total and total > 1 else "It succeeded"
    text = f"{done}, {took} after the acceptance."
    if retried:
        names = listed([str(step) for step in retried if step]) or "a PUBLISH"
        text += f" Step {names} failed at first, and succeeded when it was tried again."
    continued = [
        str(fact.step)
        for _, fact in told.facts
        if isinstance(fact, StepFailed) and fact.final is True and fact.step
    ]
    if continued:
        done = "The run went through" if total and total > 1 else "It ended"
        text = f"{done}, {took} after the acceptance."
        names = listed(continued)
        text += (
            f" But step {names} failed: the flow has ERRORS continue, so it counts as succeeded."
        )
    return text


def _all_steps(total: int) -> str:
    return "Both steps succeeded" if total == 2 else f"All {total} steps succeeded"


def _failed(told: RunToTell, steps: Steps) -> str:
    return why_step_failed(cause_of(told), failed_step(told), told, steps)


def _unknown(told: RunToTell, steps: Steps) -> str:
    cause = cause_of(told)
    begin = "It is not known whether the work was done."
    if cause is Cause.ANSWER_LOST and last(told, Probed) is None:
        step = lost_step(told)
        name = steps.name(step) if step is not None else "A step"
        who = (steps.component(step) if step is not None else None) or "the component"
        return (
            f"{begin} {name[:1].upper()}{name[1:]} was sent, then the node crashed, and its answer"
            f" is not known. {who} must not be called twice, so the node did not repeat the step."
            f" Find out at {who} whether the step was done."
        )
    if cause is Cause.UNREADABLE:
        return (
            f"{begin} A part of the journal was lost: {cut(told.reason)}. The node did not"
            " continue the run, because it may have been further than the journal shows."
        )
    if cause is Cause.SUB_FLOW:
        return f"{begin} The run of a sub-flow ended as unknown: {cut(told.reason)}."
    offered = last(told, Offered)
    if offered is not None:
        return (
            f"{begin} The run was offered to node {offered.node}: {cut(told.reason)}. Look for the"
            f" run on node {offered.node}."
        )
    return f"{begin} {sentence(cut(told.reason))}"


def _handed_off(told: RunToTell, steps: Steps) -> str:  # noqa: ARG001 - as the others
    node, cause = told.node or "another", cause_of(told)
    placed = last(told, Placed)
    chosen = f" {sentence(cut(placed.reason))}" if placed is not None and placed.reason else ""
    if cause is Cause.PLAIN_PEER:
        return (
            f"Node {node} has it, as far as is known: it runs another program, perhaps the original"
            f" Runtime Manager, which gives no receipt.{chosen}"
        )
    if cause is Cause.OPERATOR:
        return f"Node {node} has it: {cut(told.reason)}."
    return f"Node {node} has accepted the run, and decides how it ends.{chosen}"


def _dead(told: RunToTell, steps: Steps) -> str:  # noqa: ARG001 - as the others
    cause = cause_of(told)
    dead = last(told, Dead)
    reason = cut(dead.reason if dead else told.reason)
    if told.flow_id is None:
        text = f"The message never became a run. {_MESSAGES.get(cause or Cause.OTHER, '')}".rstrip()
        return f"{text} {sentence(reason)}"
    if cause is Cause.ATTEMPTS:
        return (
            f"The run was set aside, because the node crashed while it was executed, again and"
            f" again: {reason}. The run may be the cause of the crashes."
        )
    if cause is Cause.PARENT:
        return f"The run was set aside together with the run that started it: {reason}."
    if cause is Cause.UNREADABLE:
        return f"The run was set aside, because its facts cannot be read: {reason}."
    if cause is Cause.INTERNAL:
        return f"The run was set aside: {reason}. Please report this with the log of the node."
    return f"The run was set aside: {reason}."


_MESSAGES = {
    Cause.MALFORMED: "It is not valid JSON.",
    Cause.TOO_LARGE: "It is larger than max_trigger_bytes in comm.conf allows.",
    Cause.WRONG_CONTENT_TYPE: "Its content type is not JSON.",
    Cause.WRONG_CONTENT_CODING: "It is compressed.",
    Cause.WRONG_SHAPE: "A key is missing, or has a value of the wrong type.",
    Cause.UNKNOWN_FLOW: "It names a flow that flows.conf did not have.",
    Cause.KEY_REUSED: "An earlier message with other content had the same trigger id.",
    Cause.OWN_RUN: "It is a run that this node itself had offered to another node.",
}


def _cancelled(told: RunToTell, steps: Steps) -> str:
    asked, settled = last(told, CancelRequested), last(told, Settled)
    actor = asked.actor if asked else none_if_unset(settled.actor) if settled else None
    done = sum(isinstance(fact, Finished) for _, fact in told.facts)
    total = steps.total
    of_all = f" of {total}" if total else ""
    progress = f" {count(done, 'step')}{of_all} had been done." if done else " No step was done."
    return f"{actor or 'An operator'} cancelled the run.{progress}"


def _expired(told: RunToTell, steps: Steps) -> str:
    cause = cause_of(told)
    if cause is Cause.STALE:
        return (
            f"Its turn came too late: {cut(told.reason)}, and STALE says that it must then not be"
            " executed. Nothing was sent."
        )
    if cause is Cause.DEADLINE:
        retried = [fact for _, fact in told.facts if isinstance(fact, StepFailed)]
        text = f"Its time was over: {cut(told.reason)}."
        if retried:
            failure = retried[-1]
            name = steps.name(failure.step, failure.part)
            text += f" Before, {name} had failed {count(len(retried), 'time')}: "
            text += f"{cut(failure.reason)}."
        return text
    return sentence(cut(told.reason)) or "Its time was over."


def _superseded(told: RunToTell, steps: Steps) -> str:  # noqa: ARG001 - as the others
    return (
        f"A newer run took its place before it began: {cut(told.reason)}. This is what LATEST of"
        " the flow asks for. Nothing was sent."
    )


# --- open -----------------------------------------------------------------------------------------


def _parked(told: RunToTell, steps: Steps) -> str:
    cause = cause_of(told)
    parked = last(told, Parked)
    reason = cut(parked.reason if parked else told.reason)
    done = sum(isinstance(fact, Finished) for _, fact in told.facts)
    of_all = f" of {steps.total}" if steps.total else ""
    progress = f" {count(done, 'step')}{of_all} had been done before." if done else ""
    if cause is Cause.OLD:
        return (
            f"It waits for an operator, because it is old: {reason}. The node does not continue a"
            f" run that is older than recovery.max_age_s by itself.{progress}"
        )
    if cause is Cause.RESTORED:
        return (
            "It waits for an operator, because the node was restored from a backup:"
            f" {reason}. After the backup was made, the run may have gone on or ended: look at its"
            f" components.{progress}"
        )
    if cause is Cause.ATTEMPTS:
        return (
            f"It waits for an operator: {reason}. When it is released, the node first asks the"
            " other node whether it has the run."
        )
    return f"It waits for an operator: {reason}.{progress}"


def _offered(told: RunToTell, steps: Steps) -> str:  # noqa: ARG001 - as the others
    offered, doubt = last(told, Offered), last(told, OfferInDoubt)
    node = offered.node if offered else told.node or "another node"
    since = duration(told.now_ms - (time_of_last(told, Offered) or told.accepted_ms))
    if doubt is None:
        return f"It is being offered to node {node}, for {since} now."
    asked = "This node asks it again and again, and needs no help if the other node comes back."
    if told.here.is_running is False:
        asked = "This node does not run now. It asks the other node again when it is started."
    return (
        f"Node {node} may have the run: it was offered {since} ago, and {cut(doubt.reason)}."
        f" {asked}"
    )


def _open(told: RunToTell, steps: Steps) -> str:
    return why_waiting(told, steps)


def _new(told: RunToTell, steps: Steps) -> str:  # noqa: ARG001 - as the others
    return "Nothing has happened to it yet."


_BY_STATE = {
    State.NEW: _new,
    State.ACCEPTED: _open,
    State.RUNNING: _open,
    State.OFFERED: _offered,
    State.PARKED: _parked,
    State.SUCCEEDED: _succeeded,
    State.FAILED: _failed,
    State.UNKNOWN: _unknown,
    State.HANDED_OFF: _handed_off,
    State.DEAD: _dead,
    State.CANCELLED: _cancelled,
    State.EXPIRED: _expired,
    State.SUPERSEDED: _superseded,
}


# --- what else should be known --------------------------------------------------------------------


def _twice(told: RunToTell) -> str:
    for _, fact in told.facts:
        if isinstance(fact, Placed) and fact.maybe_twice is True:
            offered = last(told, Offered)
            node = f"Node {offered.node}" if offered else "Another node"
            return f"{node} may have executed it, too."
    return ""


def _undone(told: RunToTell, steps: Steps) -> str:
    undone = [str(fact.step) for _, fact in told.facts if isinstance(fact, StepUndone)]
    not_undone = [
        fact
        for _, fact in told.facts
        if isinstance(fact, StepFailed) and fact.final is True and is_undo(fact)
    ]
    parts: list[str] = []
    if undone:
        one = len(undone) == 1
        parts.append(
            f"Step {undone[0]} was undone." if one else f"Steps {listed(undone)} were undone."
        )
    for fact in not_undone[:3]:
        name = steps.name(fact.step, fact.part)
        parts.append(f"But {name} failed, so the effect of the step stays: {cut(fact.reason)}.")
    return " ".join(parts)


def _handled(told: RunToTell) -> str:
    discarded = last(told, Discarded)
    if told.repeated_by:
        return f"It has been repeated as run {listed(told.repeated_by[:3])}."
    if discarded is not None:
        note = f" ({cut(discarded.note, 80)})" if discarded.note else ""
        return f"{discarded.actor} decided that it needs no more attention{note}."
    return ""
