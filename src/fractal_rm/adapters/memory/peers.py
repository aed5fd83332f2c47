"""Peers without a network."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fractal_rm.config.model import Node
from fractal_rm.domain.handoff.messages import (
    NoAnswer,
    Offer,
    OfferAnswer,
    OlderNode,
    PeerKind,
    PlainPeer,
)
from fractal_rm.domain.node_description import KIND, PROTOCOL, NodeDescription

AnswerOffer = Callable[[Node, Offer], Awaitable[OfferAnswer]]


def described_node(node_id: str = "2", store: str = "store", boot: str = "boot") -> NodeDescription:
    """The description of a node of this release."""
    return NodeDescription(KIND, "1.0", PROTOCOL, node_id, store, boot)


class MemoryPeers:
    """Port `Peers`. ``answer_offer`` answers the offers; None: no peer can be reached.

    ``kinds`` has the answer of `describe` for each node id. A missing node is an original if
    nodes.conf says so, a node of an older release if nodes.conf says ``fractal``, otherwise a plain
    peer.
    """

    def __init__(self, answer_offer: AnswerOffer | None = None) -> None:
        self.answer_offer = answer_offer
        self.kinds: dict[str, PeerKind] = {}
        self.questions = 0  # how often `describe` was called
        self.sent: list[Offer] = []
        self.offers: list[tuple[str, str, int]] = []  # ids of node and run, epoch
        self.left_ms: list[int | None] = []  # `Offer.left_ms` of each offer
        self.runs_this_program: list[bool] = []  # the argument ``runs_this_program`` of each offer

    async def offer(self, node: Node, offer: Offer, *, runs_this_program: bool) -> OfferAnswer:
        """Record an offer and return the answer; see the port."""
        self.runs_this_program.append(runs_this_program)
        self.left_ms.append(offer.left_ms)
        self.sent.append(offer)
        self.offers.append((node.id, offer.run, offer.epoch))
        if self.answer_offer is None:
            return NoAnswer(f"{node.offer.origin}: connection refused", sent=False)
        return await self.answer_offer(node, offer)

    async def describe(self, node: Node) -> PeerKind:
        """Return the kind of a node; see the port."""
        self.questions += 1
        default = OlderNode() if node.peer == "fractal" else PlainPeer()
        return self.kinds.get(node.id, default)
