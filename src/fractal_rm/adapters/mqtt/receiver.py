"""The interface for handling received messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fractal_rm.adapters.mqtt.flow_topics import FlowTopics
from fractal_rm.adapters.mqtt.publish_packet import Message


class Receiver(Protocol):
    """Handles messages of every connection of a session.

    ``topics`` are those to subscribe to. They are replaced when the configuration changes.
    """

    topics: FlowTopics

    def max_body_bytes(self) -> int:
        """How many bytes a body may have; only the beginning of a longer one is read."""
        ...

    async def admit(self, messages: Sequence[Message]) -> Sequence[bool]:
        """For each message, whether it may be acknowledged."""
        ...

    async def wait_for_room(self) -> int:
        """Return when there may be room again, with the milliseconds that passed."""
        ...
