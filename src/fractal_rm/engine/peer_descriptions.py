"""What the peers are: asked before the first offer, and remembered for a while."""

from __future__ import annotations

import asyncio

from fractal_rm.config.model import Node
from fractal_rm.domain.handoff.messages import NoAnswer, PeerKind, PlainPeer
from fractal_rm.domain.node_description import NodeDescription
from fractal_rm.engine.dependencies import Dependencies

MAX_KNOWN = 1_000  # nodes.conf has fewer; more addresses may come with its changes
REMEMBER_S = 60.0  # for how long the kind of a peer that does not describe itself is remembered
# If a peer does not answer within SLOW_S, for example because its packets are lost, it is not asked
# again for REMEMBER_SILENT_S. Otherwise each new run would wait for the time limit of the question.
SLOW_S, REMEMBER_SILENT_S = 1.0, 5.0


class PeerDescriptions:
    """The kinds of peers by address (`Node.address`).

    The description of a node is remembered until an answer of the node shows that it has changed.
    """

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._known: dict[str, tuple[PeerKind, float | None]] = {}  # with the end of its validity
        self._questions: dict[str, asyncio.Future[PeerKind]] = {}

    async def of(self, node: Node) -> PeerKind:
        """What the peer is. Asks it if that is not known. Simultaneous calls ask once."""
        if node.peer == "original":
            return PlainPeer()
        known = self._known.get(node.address)
        if known is not None:
            kind, until_s = known
            if until_s is None or self._dependencies.clock.monotonic_s() < until_s:
                return kind
        question = self._questions.get(node.address)
        if question is None:
            question = asyncio.ensure_future(self.ask(node))
            self._questions[node.address] = question
            question.add_done_callback(lambda _: self._questions.pop(node.address, None))
        return await asyncio.shield(question)

    async def ask(self, node: Node) -> PeerKind:
        """Ask the peer now what it is. Starts no run. Remembers the answer."""
        asked_s = self._dependencies.clock.monotonic_s()
        kind = await self._dependencies.peers.describe(node)
        now_s = self._dependencies.clock.monotonic_s()
        if isinstance(kind, NoAnswer) and now_s - asked_s < SLOW_S:
            self.forget(node)
            return kind
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        until_s = now_s + (REMEMBER_SILENT_S if isinstance(kind, NoAnswer) else REMEMBER_S)
        self._known[node.address] = kind, None if isinstance(kind, NodeDescription) else until_s
        return kind

    def forget(self, node: Node) -> None:
        """Ask the peer again before the next offer: it has changed, or cannot be reached."""
        self._known.pop(node.address, None)
