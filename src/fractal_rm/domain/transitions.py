"""The transition table: which fact may follow in which state, and what state follows then."""

from __future__ import annotations

from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.facts import (
    Accepted,
    Begun,
    Dead,
    ElementFinished,
    Fact,
    Finished,
    Offered,
    Parked,
    Passed,
    Placed,
    Received,
    Released,
    Replying,
    Settled,
    Started,
    StepFailed,
    Stopping,
    Undone,
    Waiting,
)
from fractal_rm.domain.state import State


class ImpossibleFact(FractalError):
    """A fact that cannot follow on the state that the run is in: a damaged journal, or a bug."""

    code = "impossible-fact"


# Facts that say that a run is under way.
_UNDER_WAY: tuple[type[Fact], ...] = (
    Started, Finished, StepFailed, ElementFinished, Waiting, Passed, Stopping, Undone, Replying,
)  # fmt: skip
NEXT: dict[State, dict[type[Fact], State]] = {
    **{state: {} for state in State if state.final},
    State.NEW: {Accepted: State.ACCEPTED, Dead: State.DEAD},
    State.ACCEPTED: {
        **dict.fromkeys((Received, Placed, Begun), State.ACCEPTED),
        **dict.fromkeys(_UNDER_WAY, State.RUNNING),
        Offered: State.OFFERED,
        Parked: State.PARKED,
        Dead: State.DEAD,
    },
    State.RUNNING: {
        **dict.fromkeys((Placed, Begun, *_UNDER_WAY), State.RUNNING),
        Parked: State.PARKED,
        Dead: State.DEAD,
    },
    State.OFFERED: {
        **dict.fromkeys((Offered, Begun), State.OFFERED),
        Placed: State.ACCEPTED,
        Replying: State.RUNNING,
        Parked: State.PARKED,
        Dead: State.DEAD,
    },
    State.PARKED: {Released: State.ACCEPTED},
}


def next_state(state: State, fact: Fact) -> State:
    """The transition table. ``Settled`` carries its own state and ends any open run."""
    following = NEXT[state].get(type(fact))
    if following is not None:
        return following
    if isinstance(fact, Settled) and not state.final and state is not State.NEW:
        return fact.state
    raise ImpossibleFact(f"{type(fact).__name__} cannot follow on {state}")
