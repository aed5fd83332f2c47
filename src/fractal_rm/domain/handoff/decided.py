"""What the facts of a run say about an offer to another node: its doubt, and its decision."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import UNSET

from fractal_rm.domain.facts import AnyFact, Offered, Placed, Settled
from fractal_rm.domain.handoff.sender import Decision
from fractal_rm.domain.state import State

_PLACEMENTS = (Placed, Offered)


def is_in_doubt(state: State, facts: Sequence[AnyFact]) -> bool:
    """Whether a run is offered to another node. A parked run may be offered, too."""
    if state is State.PARKED:
        placements = [fact for fact in facts if isinstance(fact, _PLACEMENTS)]
        return bool(placements) and isinstance(placements[-1], Offered)
    return state is State.OFFERED


def decision_in(facts: Sequence[AnyFact]) -> Decision | None:
    """The decision of an operator in the facts of a run, or None."""
    for fact in reversed(facts):
        if isinstance(fact, Settled) and fact.actor is not UNSET:
            return Decision.TAKEN if fact.state is State.HANDED_OFF else None
        if isinstance(fact, Placed) and fact.actor is not UNSET:
            return Decision.RUN_HERE
    return None
