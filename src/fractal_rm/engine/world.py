"""What every verb of the engine is handed: the configuration in force, and the ports."""

from __future__ import annotations

from dataclasses import dataclass

from fractal_rm.config.model import Config
from fractal_rm.engine.ports import (
    Balancer,
    Clock,
    Components,
    Journal,
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
