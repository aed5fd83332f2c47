"""Peers without a network, and known peers in memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fractal_rm.config.model import Node
from fractal_rm.domain.handoff import NoAnswer, Offer, OfferAnswer

AnswerOffer = Callable[[Node, Offer], Awaitable[OfferAnswer]]


class MemoryPeers:
    """Port `Peers`. ``answer_offer`` answers the offers; None: no peer can be reached.

    ``recognized`` is the answer of `recognize`.
    """

    def __init__(self, answer_offer: AnswerOffer | None = None) -> None:
        self.answer_offer = answer_offer
        self.recognized: bool | NoAnswer = True
        self.questions = 0  # how often `recognize` was called
        self.offers: list[tuple[str, str, int]] = []  # ids of node and run, epoch
        self.left_ms: list[int | None] = []  # `Offer.left_ms` of each offer
        self.runs_this_program: list[bool] = []  # the argument ``runs_this_program`` of each offer

    async def offer(self, node: Node, offer: Offer, *, runs_this_program: bool) -> OfferAnswer:
        """Record an offer and return the answer; see the port."""
        self.runs_this_program.append(runs_this_program)
        self.left_ms.append(offer.left_ms)
        self.offers.append((node.id, offer.run, offer.epoch))
        if self.answer_offer is None:
            return NoAnswer(f"{node.offer.origin}: connection refused", sent=False)
        return await self.answer_offer(node, offer)

    async def recognize(self, node: Node) -> bool | NoAnswer:  # noqa: ARG002 - the same for all nodes
        """Return ``recognized``; see the port."""
        self.questions += 1
        return self.recognized


class MemoryKnownPeers:
    """Port `KnownPeers`, in memory only."""

    def __init__(self, *addresses: str) -> None:
        self._known = set(addresses)

    def has(self, address: str) -> bool:
        """Whether an address is known; see the port."""
        return address in self._known

    async def add(self, address: str) -> None:
        """Remember an address; see the port."""
        self._known.add(address)

    async def remove(self, address: str) -> None:
        """Forget an address; see the port."""
        self._known.discard(address)
