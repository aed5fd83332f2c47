"""What every verb of the engine is handed: the configuration in force, and the ports."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from fractal_rm.config.model import Config, Node
from fractal_rm.domain.admission import Limits
from fractal_rm.domain.run_id import RunIds
from fractal_rm.engine.ports import (
    Balancer,
    Clock,
    Components,
    Journal,
    KnownPeers,
    Observer,
    Peers,
    Publisher,
    Random,
    Telemetry,
)
from fractal_rm.engine.timers import Timers


@dataclass(slots=True)
class Dependencies:
    """``config`` is replaced whole when a new one is taken (`take`); the ports stay.

    ``timers`` wait on its clock, for whoever waits longer than a request takes; ``ids`` names runs.
    ``node_id`` is this node's, by which facts name it: as configured, or ``kept_id``, which is
    asked once the journal is open, and may raise FractalError. ``connections`` is how many may be
    open for calls. ``make_balancer`` returns the balancer of a configuration, None if it has none.
    ``observers`` are offered every fact that is written.
    """

    config: Config
    journal: Journal
    components: Components
    peers: Peers
    make_balancer: Callable[[Config], Balancer | None]
    publisher: Publisher
    clock: Clock
    random: Random
    telemetry: Telemetry
    known_peers: KnownPeers
    kept_id: Callable[[], str]
    connections: int = sys.maxsize
    observers: Sequence[Observer] = ()
    node_id: str = field(init=False, default="")
    balancer: Balancer | None = field(init=False, default=None)
    timers: Timers = field(init=False)
    ids: RunIds = field(init=False)

    def __post_init__(self) -> None:
        self.timers = Timers(self.clock)
        self.ids = RunIds(self.random.token)

    def take(self, config: Config) -> None:
        """Put a configuration in force. Raises FractalError; the one before is in force then."""
        self.node_id = config.node_id or self.kept_id()
        self.balancer = self.make_balancer(config)
        self.config = config

    def limits(self) -> Limits:
        """What admission keeps now."""
        return self.config.bounds.admission_limits(self.connections)

    def is_known_peer(self, node: Node) -> bool:
        """Whether a peer is known to be a node of this program, which remembers what it took."""
        return node.peer == "fractal" or (node.peer is None and self.known_peers.has(node.address))

    async def remember_peer(self, node: Node) -> None:
        """It has given a receipt."""
        if node.peer is None:
            await self.known_peers.add(node.address)

    async def forget_peer(self, node: Node) -> None:
        """It has given none: something else answers at its address."""
        if node.peer is None:
            await self.known_peers.remove(node.address)
