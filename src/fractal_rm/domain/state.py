"""Where a run stands, as people see it.

    accepted ──> running ──> succeeded | failed | unknown
       │  ▲         │
       │  └─────────┼──── offered ──> handed-off        (the offer came back: accepted again)
       ▼            ▼
     parked       dead                                  (released: accepted again)

What leads from one to the other is in `domain.transitions`.
"""

from __future__ import annotations

from enum import Enum

_OPEN_STATES = frozenset({"new", "accepted", "running", "offered", "parked"})


class State(str, Enum):
    """Where a run stands. The last group is ``final``: nothing more will happen to the run."""

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
