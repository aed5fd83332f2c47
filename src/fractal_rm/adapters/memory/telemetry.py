"""Telemetry that records events."""

from __future__ import annotations


class QuietTelemetry:
    """Port `Telemetry`. Records the names of events."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def event(self, name: str, **fields: object) -> None:  # noqa: ARG002
        """Record the name of an event."""
        self.events.append(name)

    def problem(self, name: str, **fields: object) -> None:  # noqa: ARG002
        """Record the name of a problem."""
        self.events.append(name)

    def detail(self, name: str, **fields: object) -> None:  # noqa: ARG002
        """Record the name of a detail."""
        self.events.append(name)
