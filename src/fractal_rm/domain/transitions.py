"""The transition table: for each state, the possible facts, and the state after each of them."""

from __future__ import annotations

from typing import Union

from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.facts import (
    Accepted,
    CancelRequested,
    Dead,
    Discarded,
    ElementFinished,
    Fact,
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
)  # fmt: skip
from fractal_rm.domain.state import Placement, State

Transition = tuple[State, Union[Placement, None]]  # None: the placement does not change


class ImpossibleFact(FractalError):
    """A fact is not possible in the state of its run. The journal is damaged, or there is a bug."""

    code = "impossible-fact"


# Facts of steps that this node executes.
_STEP_FACTS: tuple[type[Fact], ...] = (
    RequestStarted, Probed, Finished, StepFailed, ElementFinished, WaitStarted, StepPassed,
    Stopping, StepUndone,
)  # fmt: skip
# `Accepted`, `Placed` and `Offered` may set a placement that is not in this table: BY_SENDER, NAMED
# and OFFERED. See `domain.run`.
NEXT: dict[State, dict[type[Fact], Transition]] = {
    **{state: {Discarded: (state, None)} for state in State if state.final},
    State.NEW: {
        Accepted: (State.ACCEPTED, Placement.NOT_YET),
        Dead: (State.DEAD, None),
    },
    State.ACCEPTED: {
        **dict.fromkeys((Received, Restarted), (State.ACCEPTED, None)),
        Placed: (State.ACCEPTED, Placement.HERE),
        Offered: (State.OFFERED, Placement.OFFERED_ONCE),
        **dict.fromkeys(_STEP_FACTS, (State.RUNNING, Placement.HERE)),
        Replying: (State.RUNNING, None),
        CancelRequested: (State.ACCEPTED, None),
        Parked: (State.PARKED, None),
        Dead: (State.DEAD, None),
    },
    State.RUNNING: {
        Restarted: (State.RUNNING, None),
        **dict.fromkeys((Placed, *_STEP_FACTS), (State.RUNNING, Placement.HERE)),
        Offered: (State.OFFERED, Placement.OFFERED_ONCE),
        Replying: (State.RUNNING, None),
        CancelRequested: (State.RUNNING, None),
        Parked: (State.PARKED, None),
        Dead: (State.DEAD, None),
    },
    State.OFFERED: {
        Restarted: (State.OFFERED, None),
        Offered: (State.OFFERED, Placement.OFFERED_ONCE),
        OfferInDoubt: (State.OFFERED, None),
        Placed: (State.ACCEPTED, Placement.HERE),
        Replying: (State.RUNNING, None),
        Parked: (State.PARKED, None),
        Dead: (State.DEAD, None),
    },
    State.PARKED: {
        Released: (State.ACCEPTED, None),
        CancelRequested: (State.PARKED, None),
    },
}
_OPEN = frozenset(state for state in State if not state.final) - {State.NEW}


def settling_transition(state: State, fact: Fact) -> Transition:
    """The transition for a fact that is not in the table. ``Settled`` ends any open run.

    Raises ImpossibleFact for any other fact.
    """
    if isinstance(fact, Settled) and state in _OPEN:
        return fact.state, None
    raise ImpossibleFact(f"{type(fact).__name__} is not possible in state {state.text}")


def next_state(state: State, fact: Fact) -> State:
    """The state of a run after a fact. Raises ImpossibleFact."""
    return (NEXT[state].get(type(fact)) or settling_transition(state, fact))[0]
