"""Ports to other machines: the nodes that runs are offered to, and the balancer."""

from __future__ import annotations

from typing import Protocol

from fractal_rm.config.model import Node
from fractal_rm.domain.handoff.messages import Offer, OfferAnswer, PeerKind


class Peers(Protocol):
    """Offers runs to other Runtime Managers; the protocol is in `domain.handoff`."""

    async def offer(self, node: Node, offer: Offer, *, runs_this_program: bool) -> OfferAnswer:
        """Send an offer to a node once, and return its answer.

        ``runs_this_program``: the node is known to run this program. Other nodes get more time to
        answer.
        """
        ...

    async def describe(self, node: Node) -> PeerKind:
        """Ask which program runs at the address of ``node``, and what it says. Starts no run.

        Returns NoAnswer if there is no answer, or if the answer does not show the program.
        """
        ...


class Balancer(Protocol):
    """Chooses the node for a run. A new object is made for each configuration."""

    async def ask(self) -> str | None:
        """Return the id of a node, or None for this node. Raises CallFailed."""
        ...
