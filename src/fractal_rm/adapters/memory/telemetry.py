"""Telemetry that records events."""

from __future__ import annotations

from collections.abc import Callable

from fractal_rm.domain.run import Run


class QuietTelemetry:
    """Port `Telemetry`. Records the names of events, and the settled runs."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.settled: list[Run] = []
        self.took_ms: dict[str, int] = {}

    def run_settled(self, run: Run, steady_ms: Callable[[], int]) -> None:
        """A run ended."""
        self.settled.append(run)
        self.took_ms[run.id] = steady_ms() - run.steady_ms

    def event(self, name: str, **fields: object) -> None:  # noqa: ARG002
        """Something happened."""
        self.events.append(name)

    def problem(self, name: str, **fields: object) -> None:  # noqa: ARG002
        """Something went wrong."""
        self.events.append(name)
