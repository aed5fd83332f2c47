"""Other machines: the nodes that runs are offered to, and the balancer that names one of them."""

from __future__ import annotations

from typing import Protocol

from fractal_rm.config.model import Node
from fractal_rm.domain.handoff import NoAnswer, Offer, OfferAnswer


class Peers(Protocol):
    """Offers runs to other Runtime Managers; the protocol is in `domain.handoff`."""

    async def offer(self, node: Node, offer: Offer, *, ours: bool) -> OfferAnswer:
        """Send an offer to a node once, and return what it answered.

        ``ours``: the node is known to be one of this program. Any other gets more time to answer.
        """
        ...

    async def recognize(self, node: Node) -> bool | NoAnswer:
        """Whether a node of this program now answers there. Nothing is executed for it.

        NoAnswer: nothing came that tells.
        """
        ...


class KnownPeers(Protocol):
    """The addresses (`Node.address`) at which a node of this program has given a receipt.

    They outlive the process as far as the disk allows; a forgotten one is learned again.
    """

    def has(self, address: str) -> bool:
        """Whether a receipt was given there. Never blocks."""
        ...

    async def add(self, address: str) -> None:
        """Remember an address: it counts at once, and is written when this returns."""
        ...

    async def remove(self, address: str) -> None:
        """Forget an address."""
        ...


class Balancer(Protocol):
    """Names the node that a run should go to. It is made from a configuration, and knows it."""

    async def ask(self) -> str | None:
        """The id of a node, or None for here. Raises CallFailed."""
        ...
