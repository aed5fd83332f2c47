"""The dependencies of the engine: the current configuration, and the ports."""

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
    """The current configuration, which `apply_config` replaces, and the ports, which never change.

    ``node_id`` is the configured id of this node. If no id is configured, it is the result of
    ``stored_id``, which is called when the journal is open, and may raise FractalError.
    ``connections`` is the maximum number of connections for calls. ``make_balancer`` returns the
    balancer of a configuration, or None. ``observers`` observe every written fact. ``ids`` makes
    the ids of runs.
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
    stored_id: Callable[[], str]
    connections: int = sys.maxsize
    observers: Sequence[Observer] = ()
    node_id: str = field(init=False, default="")
    balancer: Balancer | None = field(init=False, default=None)
    timers: Timers = field(init=False)
    ids: RunIds = field(init=False)

    def __post_init__(self) -> None:
        self.timers = Timers(self.clock)
        self.ids = RunIds(self.random.token)

    def apply_config(self, config: Config) -> None:
        """Replace the configuration. If this raises FractalError, the previous one stays."""
        self.node_id = config.node_id or self.stored_id()
        self.balancer = self.make_balancer(config)
        self.config = config

    def limits(self) -> Limits:
        """The limits of admission in the current configuration."""
        return self.config.bounds.admission_limits(self.connections)

    def is_known_peer(self, node: Node) -> bool:
        """Whether nodes.conf, or a receipt, shows that a peer runs this program."""
        return node.peer == "fractal" or (node.peer is None and self.known_peers.has(node.address))

    async def remember_peer(self, node: Node) -> None:
        """Remember that a peer has given a receipt."""
        if node.peer is None:
            await self.known_peers.add(node.address)

    async def forget_peer(self, node: Node) -> None:
        """Forget the receipts of a peer, because another program answers at its address."""
        if node.peer is None:
            await self.known_peers.remove(node.address)
