"""Ports to other machines: the nodes that runs are offered to, and the balancer."""

from __future__ import annotations

from typing import Protocol

from fractal_rm.config.model import Node
from fractal_rm.domain.handoff import NoAnswer, Offer, OfferAnswer


class Peers(Protocol):
    """Offers runs to other Runtime Managers; the protocol is in `domain.handoff`."""

    async def offer(self, node: Node, offer: Offer, *, ours: bool) -> OfferAnswer:
        """Send an offer to a node once, and return its answer.

        ``ours``: the node is known to run this program. Another node gets more time to answer.
        """
        ...

    async def recognize(self, node: Node) -> bool | NoAnswer:
        """Whether the address of ``node`` belongs to a node of this program. Executes no run.

        Returns NoAnswer if no answer shows it.
        """
        ...


class KnownPeers(Protocol):
    """The addresses (`Node.address`) of nodes of this program that have given a receipt.

    They are stored on the disk if it can be written. A lost address is added again with the next
    receipt.
    """

    def has(self, address: str) -> bool:
        """Whether the node at this address has given a receipt. Never blocks."""
        ...

    async def add(self, address: str) -> None:
        """Add an address. `has` returns True immediately; the disk is written when this returns."""
        ...

    async def remove(self, address: str) -> None:
        """Remove an address."""
        ...


class Balancer(Protocol):
    """Chooses the node for a run. A new configuration gets a new balancer."""

    async def ask(self) -> str | None:
        """Return the id of a node, or None for this node. Raises CallFailed."""
        ...
