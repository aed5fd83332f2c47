"""The interface for handling received messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fractal_rm.adapters.mqtt.flow_topics import FlowTopics
from fractal_rm.adapters.mqtt.publish_packet import Message
from fractal_rm.engine.ports import Counting


class Receiver(Protocol):
    """Handles the messages of all connections of a session.

    ``topics`` are the topics to subscribe to. They are replaced when the configuration changes.
    ``counting`` counts the received messages.
    """

    topics: FlowTopics
    counting: Counting

    def max_body_bytes(self) -> int:
        """The largest size of a body in bytes. Of a larger body, only the beginning is read."""
        ...

    async def admit(self, messages: Sequence[Message]) -> Sequence[bool]:
        """Handle messages. Returns for each of them whether it may be acknowledged."""
        ...

    async def wait_for_room(self) -> int:
        """Wait until there may be room for messages. Returns the waiting time in milliseconds."""
        ...
