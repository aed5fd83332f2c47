"""The condition of the node: whether it stops, is drained, or is paused."""

from __future__ import annotations


class Condition:
    """What the node refuses now. `Node` sets it; acceptance and placement read it.

    ``stopping``: the process ends soon. ``draining``: an operator wants this node to have no runs.
    Both refuse all triggers and offers. ``paused``: triggers are accepted, but no run begins, and
    offers are refused.
    """

    def __init__(self) -> None:
        self.stopping = False
        self.draining = False
        self.paused = False
