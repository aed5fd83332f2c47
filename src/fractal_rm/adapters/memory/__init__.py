"""Fakes of the ports, shipped: they pass the same conformance suites as the real adapters."""

from fractal_rm.adapters.memory.caller import MemoryCaller
from fractal_rm.adapters.memory.journal import MemoryJournal
from fractal_rm.adapters.memory.others import (
    MemoryBalancer,
    MemoryKnownPeers,
    MemoryPeers,
    MemoryPublisher,
    QuietTelemetry,
    SettledRuns,
)

__all__ = ["MemoryBalancer", "MemoryCaller", "MemoryJournal", "MemoryKnownPeers", "MemoryPeers",
    "MemoryPublisher", "QuietTelemetry", "SettledRuns",
]  # fmt: skip
