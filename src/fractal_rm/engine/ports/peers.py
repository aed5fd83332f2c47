"""Ports to other machines: the nodes that runs are offered to, and the balancer."""

from __future__ import annotations

from typing import Protocol

from fractal_rm.config.model import Node
from fractal_rm.domain.handoff import NoAnswer, Offer, OfferAnswer


class Peers(Protocol):
    """Offers runs to other Runtime Managers; the protocol is in `domain.handoff`."""

    async def offer(self, node: Node, offer: Offer, *, runs_this_program: bool) -> OfferAnswer:
        """Send an offer to a node once, and return its answer.

        ``runs_this_program``: the node is known to run this program. Other nodes get more time to
        answer.
        """
        ...

    async def recognize(self, node: Node) -> bool | NoAnswer:
        """Whether this program runs at the address of ``node``. Starts no run.

        Returns NoAnswer if there is no answer, or if the answer does not show the program.
        """
        ...


class KnownPeers(Protocol):
    """The addresses (`Node.address`) of nodes of this program that have given a receipt.

    The addresses are stored on the disk if the disk can be written. A lost address is added again
    with the next receipt.
    """

    def has(self, address: str) -> bool:
        """Whether the node at this address has given a receipt. Never blocks."""
        ...

    async def add(self, address: str) -> None:
        """Add an address. `has` finds it immediately; it is stored when this method returns."""
        ...

    async def remove(self, address: str) -> None:
        """Remove an address."""
        ...


class Balancer(Protocol):
    """Chooses the node for a run. A new object is made for each configuration."""

    async def ask(self) -> str | None:
        """Return the id of a node, or None for this node. Raises CallFailed."""
        ...
