"""The transition table: which fact may follow in which state, and where the run stands then."""

from __future__ import annotations

from typing import Union

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
)  # fmt: skip
from fractal_rm.domain.state import Placement, State

Standing = tuple[State, Union[Placement, None]]  # None: it is placed as before


class ImpossibleFact(FractalError):
    """A fact that cannot follow on the state that the run is in: a damaged journal, or a bug."""

    code = "impossible-fact"


# Facts that say that a step is under way, here.
_STEPPING: tuple[type[Fact], ...] = (
    Started, Finished, StepFailed, ElementFinished, Waiting, Passed, Stopping, Undone,
)  # fmt: skip
# Of those that say where it runs, the placement here is the one that they say as a rule; for what
# else they can say see `domain.run`: BY_SENDER, NAMED, OFFERED.
NEXT: dict[State, dict[type[Fact], Standing]] = {
    **{state: {} for state in State if state.final},
    State.NEW: {
        Accepted: (State.ACCEPTED, Placement.NOT_YET),
        Dead: (State.DEAD, None),
    },
    State.ACCEPTED: {
        **dict.fromkeys((Received, Begun), (State.ACCEPTED, None)),
        Placed: (State.ACCEPTED, Placement.HERE),
        Offered: (State.OFFERED, Placement.OFFERED_ONCE),
        **dict.fromkeys(_STEPPING, (State.RUNNING, Placement.HERE)),
        Replying: (State.RUNNING, None),
        Parked: (State.PARKED, None),
        Dead: (State.DEAD, None),
    },
    State.RUNNING: {
        Begun: (State.RUNNING, None),
        **dict.fromkeys((Placed, *_STEPPING), (State.RUNNING, Placement.HERE)),
        Replying: (State.RUNNING, None),
        Parked: (State.PARKED, None),
        Dead: (State.DEAD, None),
    },
    State.OFFERED: {
        Begun: (State.OFFERED, None),
        Offered: (State.OFFERED, Placement.OFFERED_ONCE),
        Placed: (State.ACCEPTED, Placement.HERE),
        Replying: (State.RUNNING, None),
        Parked: (State.PARKED, None),
        Dead: (State.DEAD, None),
    },
    State.PARKED: {
        Released: (State.ACCEPTED, None),
    },
}
_BEGUN = frozenset(state for state in State if not state.final) - {State.NEW}


def settled(state: State, fact: Fact) -> Standing:
    """What follows on a fact that the table leaves out: ``Settled`` ends any open run as it says.

    Raises ImpossibleFact.
    """
    if isinstance(fact, Settled) and state in _BEGUN:
        return fact.state, None
    raise ImpossibleFact(f"{type(fact).__name__} cannot follow on {state}")


def next_state(state: State, fact: Fact) -> State:
    """The state that a fact leads to. Raises ImpossibleFact."""
    return (NEXT[state].get(type(fact)) or settled(state, fact))[0]
