"""The progress of a run (`State`), and the node that executes it (`Placement`).

`domain.transitions` has the facts that lead from one state to another state.
"""

from __future__ import annotations

from enum import Enum

_OPEN_STATES = frozenset({"new", "accepted", "running", "offered", "parked"})


class State(str, Enum):
    """The progress of a run. The states of the second group are final: the run has ended.

    accepted ──> running ──> succeeded | failed | unknown
       │  ▲         │
       │  └─────────┼──── offered ──> handed-off        (the peer refused: accepted again)
       ▼            ▼
     parked       dead                                  (released: accepted again)

    An operator can end any open run as cancelled, unless another node may have it.
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

    # The hash and the value of Enum are slower, because they are Python functions.
    __hash__ = str.__hash__

    def __init__(self, text: str) -> None:
        self.text = text
        self.final = text not in _OPEN_STATES


class Placement(Enum):
    """The node that executes a run. A parked run keeps its placement.

    not-yet | by-sender ──> named ──> offered | offered-once
            │                 │          │
            └─────────────────┴──────────┴──> here
    """

    NOT_YET = "not-yet"  # the balancer was not asked yet
    BY_SENDER = "by-sender"  # the sender placed the run on this node; the balancer is not asked
    NAMED = "named"  # the balancer named another node; the run was not offered to that node yet
    OFFERED = "offered"  # offered to a peer that runs this program; it knows whether it has the run
    OFFERED_ONCE = "offered-once"  # offered to any other peer, which gets no second offer
    HERE = "here"  # this node executes the run; the run will not be offered to another node


# Constants, because the lookup of a member of an Enum is slow.
HERE, NAMED, BY_SENDER = Placement.HERE, Placement.NAMED, Placement.BY_SENDER
OFFERED = (Placement.OFFERED, Placement.OFFERED_ONCE)


# Final states that may need the attention of a person.
TROUBLE_STATES = frozenset({State.FAILED, State.UNKNOWN, State.DEAD, State.EXPIRED})
