"""Where a run stands: how far it is (`State`), and which node is to run it (`Placement`).

What leads from one to the other is in `domain.transitions`.
"""

from __future__ import annotations

from enum import Enum

_OPEN_STATES = frozenset({"new", "accepted", "running", "offered", "parked"})


class State(str, Enum):
    """How far a run is, as people see it. The last group is ``final``: nothing more happens to it.

    accepted ──> running ──> succeeded | failed | unknown
       │  ▲         │
       │  └─────────┼──── offered ──> handed-off        (the offer came back: accepted again)
       ▼            ▼
     parked       dead                                  (released: accepted again)
    """

    NEW = "new"
    ACCEPTED = "accepted"
    RUNNING = "running"
    OFFERED = "offered"
    PARKED = "parked"

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"
    HANDED_OFF = "handed-off"
    DEAD = "dead"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"

    # Enum's own hash and value are Python functions, and states are read all day.
    __hash__ = str.__hash__

    def __init__(self, text: str) -> None:
        self.text = text
        self.final = text not in _OPEN_STATES


class Placement(Enum):
    """Which node is to run it. A run that waits for a person keeps its placement.

    not-yet | by-sender ──> named ──> offered | offered-once
            │                 │          │
            └─────────────────┴──────────┴──> here
    """

    NOT_YET = "not-yet"  # nobody has said it; the balancer is to be asked
    BY_SENDER = "by-sender"  # its sender has placed it here; the balancer is not asked
    NAMED = "named"  # another node was named, and it is not offered there yet
    OFFERED = "offered"  # to a node of this program, which can be asked whether it has the run
    OFFERED_ONCE = "offered-once"  # to any other peer, which is never offered a run twice
    HERE = "here"  # it was placed here, or a step of it has begun here: it ends here too


# For those who ask all day: to look up a member of an Enum takes longer than what is done with it.
HERE, NAMED, BY_SENDER = Placement.HERE, Placement.NAMED, Placement.BY_SENDER
OFFERED = (Placement.OFFERED, Placement.OFFERED_ONCE)


# Ends that somebody may have to look at.
TROUBLE = frozenset({State.FAILED, State.UNKNOWN, State.DEAD, State.EXPIRED})
