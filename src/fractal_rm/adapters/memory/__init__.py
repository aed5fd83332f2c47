"""Ports in memory, for tests and simulations. They pass the conformance tests of the ports."""

from fractal_rm.adapters.memory.actions import MemoryActions
from fractal_rm.adapters.memory.balancer import MemoryBalancer
from fractal_rm.adapters.memory.caller import MemoryCaller
from fractal_rm.adapters.memory.journal import MemoryJournal
from fractal_rm.adapters.memory.observer import SettledRuns
from fractal_rm.adapters.memory.past_runs import MemoryPastRuns
from fractal_rm.adapters.memory.peers import MemoryPeers, described_node
from fractal_rm.adapters.memory.publisher import MemoryPublisher
from fractal_rm.adapters.memory.telemetry import QuietTelemetry

__all__ = ["MemoryActions", "MemoryBalancer", "MemoryCaller", "MemoryJournal", "MemoryPastRuns",
    "MemoryPeers",
    "MemoryPublisher", "QuietTelemetry", "SettledRuns", "described_node",
]  # fmt: skip
