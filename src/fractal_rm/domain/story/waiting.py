"""What a run waits for, if it has not ended."""

from __future__ import annotations

from msgspec import UNSET

from fractal_rm.domain.facts import (
    CancelRequested,
    Finished,
    Placed,
    Replying,
    RequestStarted,
    Restarted,
    StepFailed,
    StepPassed,
    Stopping,
    WaitStarted,
)
from fractal_rm.domain.node_status import ComponentStatus, FlowStatus
from fractal_rm.domain.state import State
from fractal_rm.domain.story.placing import is_here
from fractal_rm.domain.story.steps import Steps
from fractal_rm.domain.story.values import RunToTell
from fractal_rm.domain.story.words import count, cut, duration, upper


def why_waiting(told: RunToTell, steps: Steps) -> str:
    """What a run that is accepted or running waits for."""
    if told.here.is_running is False:
        return _without_node(told)
    return _in_progress(told, steps) or _in_queue(told)


def _without_node(told: RunToTell) -> str:
    begun = "It had begun, and continues" if told.state is State.RUNNING else "It begins"
    done = sum(isinstance(fact, Finished) for _, fact in told.facts)
    progress = f" {count(done, 'step')} had been done." if done else ""
    return f"The node does not run ({told.journal}). {begun} when the node is started.{progress}"


def _in_progress(told: RunToTell, steps: Steps) -> str:  # noqa: C901, PLR0911 - each fact
    """What the run is doing, from its last facts; empty if it has not begun."""
    now_ms, clock = told.now_ms, told.clock
    asked = any(isinstance(fact, CancelRequested) for _, fact in told.facts)
    cancel = " An operator asked to cancel it." if asked else ""
    for at_ms, fact in reversed(told.facts):
        since = duration(now_ms - at_ms)
        match fact:
            case Replying():
                return (
                    f"It has ended as {fact.state.value}, and its outcome is being published to the"
                    f" sender by MQTT, for {since} now. Is the broker reachable?"
                )
            case Stopping():
                return (
                    f"It will end as {fact.state.value}, and its finished steps are being undone."
                )
            case WaitStarted():
                left_ms = fact.until.wall_ms - now_ms
                until = f"until {clock(fact.until.wall_ms)}"
                left = f" ({duration(left_ms)} left)" if left_ms > 0 else " (it should end now)"
                return f"It is in a WAIT {until}{left}.{cancel}"
            case StepFailed() if fact.retry_at is not UNSET:
                name = upper(steps.name(fact.step, fact.part))
                left_ms = fact.retry_at.wall_ms - now_ms
                when = f"in {duration(left_ms)}" if left_ms > 0 else "now"
                return (
                    f"{name} failed (attempt {fact.attempt}): {cut(fact.reason)}. The next"
                    f" attempt follows {when}.{cancel}"
                )
            case RequestStarted():
                name = upper(steps.name(fact.step, fact.part))
                return f"{name} was sent {since} ago, and has not been answered.{cancel}"
            case Finished() | StepPassed():
                return f"{_after(told, steps)}{_circuit(told, steps)}{cancel}"
            case Placed() if not is_here(fact, told):
                return (
                    f"It is to be executed on node {fact.node}, which is being asked to take it,"
                    f" for {since} now.{cancel}"
                )
            case Placed():
                first = steps.at(0)
                name = f"Its first step has not been answered yet, after {since}"
                if first is None or told.state is State.RUNNING:
                    name = f"It has been executed here for {since}"
                return f"{name}.{_circuit(told, steps)}{cancel}"
            case Restarted():
                return f"The node was started again {since} ago, and continues the run.{cancel}"
            case _:
                pass
    return ""


def _after(told: RunToTell, steps: Steps) -> str:
    """The step that follows the last finished step."""
    done = [fact for _, fact in told.facts if isinstance(fact, Finished)]
    since = duration(told.now_ms - told.facts[-1][0])
    of_all = f" of {steps.total}" if steps.total else ""
    text = f"{count(len(done), 'step')}{of_all} done."
    if not steps.total or len(done) < steps.total:
        following = max((fact.step for fact in done), default=0) + 1
        return f"{text} {upper(steps.name(following))} has had no answer for {since}."
    return text


def _circuit(told: RunToTell, steps: Steps) -> str:
    """Whether the component of the next step is not called now."""
    done = [fact.step for _, fact in told.facts if isinstance(fact, Finished)]
    component = steps.component(max(done, default=0) + 1)
    for each in told.here.status.components if told.here.status else ():
        if each.component == component:
            return circuit_words(each)
    return ""


def circuit_words(component: ComponentStatus) -> str:
    """Why calls to a component wait, if they do."""
    if component.circuit not in (None, "closed"):
        why = f": {cut(component.why)}" if component.why else ""
        return f" The circuit of {component.component} is {component.circuit}{why}."
    if component.waiting:
        return f" {count(component.waiting, 'call')} to {component.component} wait for their turn."
    return ""


def _in_queue(told: RunToTell) -> str:
    """Why a run waits in the queue."""
    here, waited = told.here, duration(told.now_ms - told.accepted_ms)
    text = f"It has waited {waited} for its turn."
    flow = _flow_status(told)
    if here.paused:
        return f"{text} The node is paused, so no run begins."
    if flow is not None and flow.paused_by is not None:
        return f"{text} {flow.paused_by} paused flow {flow.flow}, so no run of it begins."
    limit = told.flow.queueing.limit if told.flow and told.flow.queueing is not UNSET else None
    if limit is not None and flow is not None and flow.waiting_for_limit:
        return (
            f"{text} Flow {flow.flow} has LIMIT {limit}, and"
            f" {count(flow.in_flight, 'run')} of it {'is' if flow.in_flight == 1 else 'are'} in"
            f" flight; {count(flow.waiting_for_limit, 'run')} wait for this limit."
        )
    if here.status is not None:
        status = here.status
        return (
            f"{text} {count(status.in_flight, 'run')} are in flight on this node, and"
            f" {count(status.waiting, 'run')} wait."
        )
    if here.draining:
        return f"{text} The node drains: the run goes to another node when its turn comes."
    return text


def _flow_status(told: RunToTell) -> FlowStatus | None:
    flows = told.here.status.flows if told.here.status else ()
    return next((each for each in flows if each.flow == told.flow_id), None)
