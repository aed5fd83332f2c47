"""The condition of the node: whether it stops, is drained, or is paused."""

from __future__ import annotations

from collections.abc import Mapping

from fractal_rm.domain.flow_pause import FlowPause


class Condition:
    """What the node refuses now. `Node` sets it; acceptance and placement read it.

    ``stopping``: the process ends soon. ``draining``: an operator wants this node to have no runs.
    Both refuse all triggers and offers. ``paused``: triggers are accepted, but no run begins, and
    offers are refused. ``paused_flows``: no run of these flows begins.
    """

    def __init__(self) -> None:
        self.stopping = False
        self.draining = False
        self.paused = False
        self.paused_flows: Mapping[str, FlowPause] = {}
