"""What every verb of the engine is handed: the configuration in force, and the ports."""

from __future__ import annotations

from dataclasses import dataclass

from fractal_rm.config.model import Config, Node
from fractal_rm.engine.ports import (
    Balancer,
    Clock,
    Components,
    Journal,
    KnownPeers,
    Peers,
    Publisher,
    Random,
    Telemetry,
)


@dataclass(slots=True)
class World:
    """``config`` is replaced whole when a new one is taken; the ports stay."""

    config: Config
    journal: Journal
    components: Components
    peers: Peers
    balancer: Balancer
    publisher: Publisher
    clock: Clock
    random: Random
    telemetry: Telemetry
    known_peers: KnownPeers

    def is_ours(self, node: Node) -> bool:
        """Whether a peer is known to be a node of this program, which remembers what it took."""
        return node.peer == "fractal" or (node.peer is None and self.known_peers.has(node.address))

    async def remember_as_ours(self, node: Node) -> None:
        """It has given a receipt."""
        if node.peer is None:
            await self.known_peers.add(node.address)

    async def forget_as_ours(self, node: Node) -> None:
        """It has given none: something else answers at its address."""
        if node.peer is None:
            await self.known_peers.remove(node.address)
