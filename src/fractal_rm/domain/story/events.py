"""The sentences about what happened, in order.

Facts that say one thing together make one sentence: a request and its answer, and the elements of a
FOREACH that follow each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from msgspec import UNSET

from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import (
    Accepted,
    AnyFact,
    CancelRequested,
    Dead,
    Discarded,
    ElementFinished,
    Finished,
    Offered,
    OfferInDoubt,
    Parked,
    Placed,
    Probed,
    Received,
    Released,
    Replying,
    RequestStarted,
    Restarted,
    Settled,
    StepFailed,
    StepPassed,
    StepUndone,
    Stopping,
    WaitStarted,
)
from fractal_rm.domain.state import TROUBLE_STATES, State
from fractal_rm.domain.story.placing import arrival, placement
from fractal_rm.domain.story.scene import Scene
from fractal_rm.domain.story.step_events import (
    LONG_WAIT_MS,
    MAX_RESULT,
    elements,
    failed,
    finished,
    passed,
    probed,
    started,
    stopping,
    undone,
    wait,
)
from fractal_rm.domain.story.steps import Steps
from fractal_rm.domain.story.values import Event, RunToTell
from fractal_rm.domain.story.words import cut, duration, quoted, sentence, size

_BY_BALANCER = (Cause.BALANCER, Cause.BALANCER_FAILED, Cause.UNKNOWN_NODE)


def events(told: RunToTell, steps: Steps) -> list[Event]:
    """What happened to a run, in order."""
    return list(_tell(Scene(told, steps)))


def _tell(scene: Scene) -> Iterator[Event]:
    facts = scene.told.facts
    while scene.index < len(facts):
        at_ms, fact = facts[scene.index]
        scene.index += 1
        event = _BY_FACT[type(fact)](scene, at_ms, fact)
        if event is not None:
            yield event
        if isinstance(fact, StepFailed) and fact.retry_at is not UNSET:
            at_ms = fact.retry_at.wall_ms  # the pause does not belong to the next attempt
        scene.last_ms = max(scene.last_ms, at_ms)


def _received(_scene: Scene, at_ms: int, fact: Received) -> Event:
    by = f"Node {fact.sender}" if fact.sender else "Another node"
    return Event(at_ms, f"{by} handed the run off to this node.")


def _accepted(scene: Scene, at_ms: int, fact: Accepted) -> Event:
    return Event(at_ms, arrival(fact, scene.told))


def _offered(scene: Scene, at_ms: int, fact: Offered) -> Event:
    again = " again" if _was_offered_before(scene) else ""
    return Event(at_ms, f"The run was offered to node {fact.node}{again}.")


def _in_doubt(_scene: Scene, at_ms: int, fact: OfferInDoubt) -> Event:
    text = f"It is not known whether the other node has the run: {cut(fact.reason)}."
    return Event(at_ms, f"{text} The node is asked again.", is_problem=True)


def _restarted(_scene: Scene, at_ms: int, fact: Restarted) -> Event:
    text = f"The node was started again, and continues the run (execution {fact.attempt})."
    return Event(at_ms, text, is_problem=True)


def _parked(_scene: Scene, at_ms: int, fact: Parked) -> Event:
    text = f"The run was parked: {cut(fact.reason)}. It waits for an operator."
    return Event(at_ms, text, is_problem=True)


def _released(_scene: Scene, at_ms: int, fact: Released) -> Event:
    by = "An operator" if fact.actor is UNSET else fact.actor
    return Event(at_ms, f"{by} released the run. It continues.")


def _cancel(_scene: Scene, at_ms: int, fact: CancelRequested) -> Event:
    step = "is ended at once" if fact.cut else "may end by itself"
    undo = "the finished steps are undone" if fact.undo else "nothing is undone"
    text = f"{fact.actor} asked to cancel the run: no further step begins, the step in flight"
    return Event(at_ms, f"{text} {step}, and {undo}.")


def _discarded(_scene: Scene, at_ms: int, fact: Discarded) -> Event:
    note = f": {quoted(fact.note)}" if fact.note else ""
    return Event(at_ms, f"{fact.actor} decided that the run needs no more attention{note}.")


def _placed(scene: Scene, at_ms: int, fact: Placed) -> Event:
    waited_ms = at_ms - scene.last_ms
    text, is_problem = placement(fact, scene.told, after_offer=_was_offered_before(scene))
    first = isinstance(scene.told.facts[scene.index - 2][1], (Accepted, Received))
    if first and waited_ms >= LONG_WAIT_MS:
        asked = fact.cause in _BY_BALANCER
        where = "in the queue, and for the answer of the balancer" if asked else "in the queue"
        text = f"After {duration(waited_ms)} {where}: {text[0].lower()}{text[1:]}"
    return Event(at_ms, text, is_problem=is_problem)


def _was_offered_before(scene: Scene) -> bool:
    return any(isinstance(fact, Offered) for _, fact in scene.told.facts[: scene.index - 1])


def _replying(_scene: Scene, at_ms: int, fact: Replying) -> Event:
    text = f"The run has ended as {fact.state.value}. Its outcome is sent to the sender by MQTT."
    return Event(at_ms, text)


def _settled(scene: Scene, at_ms: int, fact: Settled) -> Event:
    took = duration(max(0, at_ms - scene.told.accepted_ms))
    by = f" {fact.actor} decided it." if fact.actor is not UNSET else ""
    if fact.state is State.HANDED_OFF:
        return Event(at_ms, f"The run was handed off: {cut(fact.reason)}.{by}")
    reason = ""
    if fact.reason and fact.state is not State.SUCCEEDED and not _is_told(scene, fact):
        reason = f": {cut(fact.reason)}"
    text = f"The run ended as {fact.state.value}, {took} after its acceptance{reason}.{by}"
    return Event(at_ms, text, is_problem=fact.state in TROUBLE_STATES)


def _is_told(scene: Scene, fact: Settled) -> bool:
    """Whether a failure of a step with the same cause was told before."""
    return any(
        isinstance(each, StepFailed) and each.final is True and each.cause == fact.cause
        for _, each in scene.told.facts
    )


def _dead(scene: Scene, at_ms: int, fact: Dead) -> Event:
    if scene.told.flow_id is None:
        by = {"mqtt": "MQTT", "rest": "REST"}.get(fact.source, fact.source or "an unknown sender")
        text = f"A message by {by} was refused, and kept as a"
        text = f"{text} dead letter: {cut(fact.reason)}."
        if fact.body and scene.told.show_values:
            body = " ".join(fact.body.decode("utf-8", "replace").split())
            text += f" It has {size(len(fact.body))}: {cut(body, MAX_RESULT)}"
        return Event(at_ms, text, is_problem=True)
    return Event(at_ms, f"The run was set aside: {sentence(cut(fact.reason))}", is_problem=True)


_BY_FACT: dict[type[AnyFact], Callable[[Scene, int, Any], Event | None]] = {
    Accepted: _accepted,
    Received: _received,
    Placed: _placed,
    Offered: _offered,
    OfferInDoubt: _in_doubt,
    Restarted: _restarted,
    ElementFinished: elements,
    RequestStarted: started,
    Probed: probed,
    Finished: finished,
    StepFailed: failed,
    WaitStarted: wait,
    StepPassed: passed,
    Stopping: stopping,
    StepUndone: undone,
    Parked: _parked,
    Released: _released,
    CancelRequested: _cancel,
    Replying: _replying,
    Settled: _settled,
    Dead: _dead,
    Discarded: _discarded,
}
