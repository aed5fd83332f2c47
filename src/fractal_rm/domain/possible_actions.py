"""Which actions are offered to an operator for a run, by what a list knows about it.

Whether an action is possible is decided when it is done (`engine.actions`): the run may have
changed meanwhile.
"""

from __future__ import annotations

from enum import Enum

from fractal_rm.domain.cause import Cause
from fractal_rm.domain.state import TROUBLE_STATES, State


class Offer(Enum):
    """An action that is offered for one run. The value is the last part of its address."""

    CANCEL = "cancel"
    REPLAY = "replay"
    RELEASE = "release"
    DISCARD = "discard"
    DECIDE_STEP = "decide-step"
    DECIDE_OFFER = "decide-offer"
    SEND = "send"
    EDIT = "edit"


# A message with such a fault is refused again, if it is not changed.
FAULTS_OF_MESSAGE = frozenset({Cause.MALFORMED, Cause.WRONG_SHAPE})
_MAY_BE_REPEATED = TROUBLE_STATES | {State.SUCCEEDED, State.CANCELLED, State.SUPERSEDED}


def offered_actions(
    state: State,
    *,
    cause: str | None = None,
    is_dead_letter: bool = False,
    has_parent: bool = False,
    handled: bool = False,
) -> list[Offer]:
    """The actions for a run, the most useful first.

    ``is_dead_letter``: it is a message that never became a run. ``has_parent``: a RUN step has
    started it, so it is cancelled and repeated with that run. ``handled``: an operator has repeated
    or discarded it, so it needs no mark.
    """
    if is_dead_letter:
        as_it_is = [] if cause in FAULTS_OF_MESSAGE else [Offer.SEND]
        return [Offer.EDIT, *as_it_is, *([] if handled else [Offer.DISCARD])]
    if state in (State.ACCEPTED, State.RUNNING):
        return [] if has_parent else [Offer.CANCEL]
    if state is State.OFFERED:
        return [Offer.DECIDE_OFFER]
    if state is State.PARKED:
        return [Offer.RELEASE, *([] if has_parent else [Offer.CANCEL])]
    found: list[Offer] = []
    if state is State.UNKNOWN:
        found.append(Offer.DECIDE_STEP)
    if state in _MAY_BE_REPEATED and not has_parent:
        found.append(Offer.REPLAY)
    if state in TROUBLE_STATES and not handled:
        found.append(Offer.DISCARD)
    return found
