"""What can be done about a run now, as commands of this program."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import UNSET

from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import (
    Accepted,
    Discarded,
    Finished,
    Offered,
    OfferInDoubt,
    Replying,
    StepFailed,
    StepUndone,
    Stopping,
)
from fractal_rm.domain.possible_actions import FAULTS_OF_MESSAGE
from fractal_rm.domain.repeating import has_same_beginning
from fractal_rm.domain.state import State
from fractal_rm.domain.story.find import cause_of, failed_step, last
from fractal_rm.domain.story.null_references import how_to_correct, null_references
from fractal_rm.domain.story.steps import Steps
from fractal_rm.domain.story.values import Advice, RunToTell

# Causes for which the flow or the configuration must be changed before a run is repeated.
_FLOW_CAUSES = (Cause.CANNOT_EVALUATE, Cause.NOT_EXPECTED, Cause.TOO_MANY_VALUES, Cause.DEADLOCK)
_CONFIG_CAUSES = (Cause.NOT_CONFIGURED, Cause.REPLY_TOO_LARGE, Cause.UNKNOWN_FLOW, Cause.TOO_LARGE)
_COMPONENT_CAUSES = (
    Cause.STATUS, Cause.CONNECT_FAILED, Cause.TIMED_OUT, Cause.BAD_REPLY, Cause.CALL_FAILED,
    Cause.CIRCUIT_OPEN,
)  # fmt: skip
_MAYBE_DONE = (Cause.TIMED_OUT, Cause.BAD_REPLY, Cause.REPLY_TOO_LARGE, Cause.CALL_FAILED)


def advice(told: RunToTell, steps: Steps) -> list[Advice]:
    """What can be done about a run now; the most useful first."""
    if told.repeated_by:
        newest = told.repeated_by[-1]
        return [Advice("see how the repeated run ended", ("runs", "why", newest))]
    advise = _BY_STATE.get(told.state)
    if advise is None or last(told, Discarded) is not None:
        return []
    return advise(told, steps)


# --- open runs ------------------------------------------------------------------------------------


def _open(told: RunToTell, steps: Steps) -> list[Advice]:  # noqa: ARG001 - as the others
    if told.here.is_running is False:
        return [_start(told)]
    found: list[Advice] = []
    if told.here.paused:
        found.append(Advice("let runs begin again", ("resume",)))
    status = told.here.status
    for flow in status.flows if status else ():
        if flow.flow == told.flow_id and flow.paused_by is not None:
            words = ("flows", "resume", flow.flow)
            found.append(Advice(f"end the pause of flow {flow.flow}", words))
    found.append(Advice("wait for its end", ("runs", "wait", told.id)))
    if last(told, Replying) is None and last(told, Stopping) is None:
        found.append(Advice("end it, and undo its finished steps", ("runs", "cancel", told.id)))
    return found


def _start(told: RunToTell) -> Advice:
    return Advice("start the node; it continues the run", (told.journal,))


def _offered(told: RunToTell, steps: Steps) -> list[Advice]:  # noqa: ARG001 - as the others
    offered, doubt = last(told, Offered), last(told, OfferInDoubt)
    if told.here.is_running is False:
        return [_start(told)]
    if doubt is None or offered is None:
        return []
    run = told.id
    return [
        Advice("see whether the other node can be reached", ("nodes",)),
        Advice(f"look for the run on node {offered.node}: run there `fractal-rm runs why {run}`"),
        Advice("if it has the run: end the run here", ("runs", "resolve", run, "--taken")),
        Advice("if it does not: execute the run here", ("runs", "resolve", run, "--run-here")),
    ]


def _parked(told: RunToTell, steps: Steps) -> list[Advice]:  # noqa: ARG001 - as the others
    if told.here.is_running is False:
        return [Advice("start the node first: it must run", (told.journal,))]
    return [
        Advice("if it may still be executed: continue it", ("resume", "--parked", told.id)),
        Advice("if it may not: end it, and undo its finished steps", ("runs", "cancel", told.id)),
    ]


# --- ended runs -----------------------------------------------------------------------------------


def _failed(told: RunToTell, steps: Steps) -> list[Advice]:
    parent = _parent(told)
    if parent is not None:
        return [Advice("look at the run that started this one", ("runs", "why", parent))]
    found = _look(told, steps)
    return [*found, *_repeat(told, steps), _discard(told)]


def _look(told: RunToTell, steps: Steps) -> list[Advice]:
    """What helps to find the fault."""
    cause, run = cause_of(told), told.id
    found = _correct(told, steps)
    if found:
        return [*found, Advice("see the payload and the results", ("runs", "show", run))]
    child = next((each for each in told.children if each.state is not State.SUCCEEDED), None)
    if cause is Cause.SUB_FLOW and child is not None:
        found.append(Advice("look at the run that did not succeed", ("runs", "why", child.run)))
    if cause in _COMPONENT_CAUSES:
        name = _component(told, steps)
        whether = f"see whether {name} fails for other runs, too" if name else "see the components"
        found.append(Advice(whether, ("components",)))
    if cause in _FLOW_CAUSES or (cause is Cause.STATUS and _is_client_error(told)):
        found.append(Advice("see the payload and the results", ("runs", "show", run)))
    if cause in _FLOW_CAUSES and told.flow_id is not None:
        found.append(Advice("see what the flow sends", ("flows", "show", told.flow_id)))
    if cause in _CONFIG_CAUSES:
        found.append(Advice("see whether the configuration has an error", ("check",)))
        found.append(Advice("see what was changed, and when", ("config", "history")))
    return found


def _correct(told: RunToTell, steps: Steps) -> list[Advice]:
    """How a misspelt field of the flow is corrected; empty if none was found."""
    failed = failed_step(told)
    return how_to_correct(null_references(told, failed, steps), failed, steps)


def _is_client_error(told: RunToTell) -> bool:
    failed = failed_step(told)
    return failed is not None and failed.answer is not UNSET and 400 <= failed.answer.status < 500


def _component(told: RunToTell, steps: Steps) -> str | None:
    failed = failed_step(told)
    return steps.component(failed.step) if failed is not None else None


def _repeat(told: RunToTell, steps: Steps) -> list[Advice]:
    """How the run can be repeated, after the cause was removed."""
    run, failed = told.id, failed_step(told)
    is_misspelt = bool(_correct(told, steps))
    needs_change = is_misspelt or cause_of(told) in (*_FLOW_CAUSES, *_CONFIG_CAUSES)
    flow: tuple[str, ...] = ()
    text = "repeat it from the beginning"
    if needs_change or told.flow_changed:
        flow, text = ("--current-flow",), f"{text}, with the flow as it is now in flows.conf"
    if needs_change:
        text = f"when the fault is mended: {text}"
    if doubt := _if_not_done(told, steps):
        text = f"{doubt}{text}"
    found = [Advice(text, ("runs", "replay", run, *flow))]
    has_results = any(isinstance(fact, Finished) for _, fact in told.facts)
    is_undone = any(isinstance(fact, StepUndone) for _, fact in told.facts)
    may_take_over = has_results and not is_undone and (not flow or _fits_current(told, failed))
    if failed is not None and failed.step > 1 and may_take_over:
        words = ("runs", "replay", run, "--from-step", str(failed.step), *flow)
        text = f"{doubt}repeat it from step {failed.step}, with the earlier results"
        if is_misspelt:
            text = f"when the fault is mended: {text}, and the flow as it is then"
        found.insert(0 if is_misspelt else 1, Advice(text, words))
    if last(told, Accepted) is None:  # its facts were deleted because of their age
        return []
    return found if _may_repeat(told, steps) else [_warned(each) for each in found]


def _fits_current(told: RunToTell, failed: StepFailed | None) -> bool:
    """Whether the flow of flows.conf can use the results before the failed step."""
    if failed is None or told.flow is None or told.current is None:
        return True
    return has_same_beginning(told.flow, told.current, failed.step)


def _if_not_done(told: RunToTell, steps: Steps) -> str:
    """The condition for repeating a step that must not be made twice, and may have been done."""
    failed, cause = failed_step(told), cause_of(told)
    note = steps.note(failed.step) if failed is not None else None
    if failed is None or note is None or note.idempotent:
        return ""
    is_server_error = failed.answer is not UNSET and failed.answer.status >= 500
    if cause in _MAYBE_DONE or is_server_error:
        return f"if {steps.component(failed.step)} has not done step {failed.step}: "
    return ""


def _may_repeat(told: RunToTell, steps: Steps) -> bool:
    """Whether every step that may have had an effect may be made again."""
    return not any(
        (note := steps.note(fact.step)) is not None and not note.idempotent
        for _, fact in told.facts
        if isinstance(fact, Finished) and fact.status
    )


def _warned(each: Advice) -> Advice:
    return Advice(f"{each.text} (a component that must not be called twice is called again)"
                  if "--from-step" not in each.words else each.text, each.words)  # fmt: skip


def _discard(told: RunToTell) -> Advice:
    return Advice("mark it as needing no more attention", ("runs", "discard", told.id))


def _unknown(told: RunToTell, steps: Steps) -> list[Advice]:  # noqa: ARG001 - as the others
    run, offered = told.id, last(told, Offered)
    if cause_of(told) is not Cause.ANSWER_LOST and offered is not None:
        node = offered.node
        return [
            Advice(f"look for the run on node {node}: run there `fractal-rm runs why {run}`"),
            Advice(f"if node {node} has not done it: repeat it here", ("runs", "replay", run)),
            Advice("if it has done it: mark the run", ("runs", "discard", run)),
        ]
    child = next((each for each in told.children if each.state is State.UNKNOWN), None)
    if child is not None:
        return [Advice("decide the run of the sub-flow first", ("runs", "why", child.run))]
    parent = _parent(told)
    if parent is not None and cause_of(told) is not Cause.ANSWER_LOST:
        return [Advice("look at the run that started this one", ("runs", "why", parent))]
    return [
        Advice("if the component has done the step: go on after it (--result JSON gives its"
               " result)", ("runs", "resolve", run, "--step-done")),
        Advice("if it has not: repeat the step", ("runs", "resolve", run, "--step-not-done")),
        _discard(told),
    ]  # fmt: skip


def _dead(told: RunToTell, steps: Steps) -> list[Advice]:
    run = told.id
    if told.flow_id is None:
        return [
            Advice("see the whole message", ("dead", "show", run)),
            *_look(told, steps),
            Advice(
                "correct the message in an editor, and send it", ("dead", "send", "--edit", run)
            ),
            *_send_as_it_is(told),
            Advice("mark it as needing no more attention", ("dead", "discard", run)),
        ]
    return _failed(told, steps)


def _send_as_it_is(told: RunToTell) -> list[Advice]:
    """How the message is sent unchanged, unless the fault is in the message itself."""
    if cause_of(told) in FAULTS_OF_MESSAGE:
        return []
    text = "send it again as it is, after the cause was removed"
    return [Advice(text, ("dead", "send", told.id))]


def _parent(told: RunToTell) -> str | None:
    first = told.facts[0][1] if told.facts else None
    if isinstance(first, Accepted) and first.origin is not UNSET:
        return first.origin.rpartition(":")[0]
    return None


def _handed_off(told: RunToTell, steps: Steps) -> list[Advice]:  # noqa: ARG001 - as the others
    if told.node is None:
        return []
    text = f"see how it ended: run `fractal-rm runs why {told.id}` on node {told.node}"
    return [Advice(text)]


def _cancelled(told: RunToTell, steps: Steps) -> list[Advice]:
    return [] if _parent(told) is not None else _repeat(told, steps)


_BY_STATE: dict[State, Callable[[RunToTell, Steps], list[Advice]]] = {
    State.ACCEPTED: _open,
    State.RUNNING: _open,
    State.OFFERED: _offered,
    State.PARKED: _parked,
    State.FAILED: _failed,
    State.EXPIRED: _failed,
    State.UNKNOWN: _unknown,
    State.DEAD: _dead,
    State.CANCELLED: _cancelled,
    State.HANDED_OFF: _handed_off,
}
