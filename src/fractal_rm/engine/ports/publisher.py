"""The broker, for messages that a flow or a reply sends."""

from __future__ import annotations

from typing import Protocol


class Publisher(Protocol):
    """Sends messages to the MQTT broker."""

    async def publish(self, topic: str, body: bytes, *, correlation: bytes | None = None) -> None:
        """Publish once at QoS 1; returns when the broker has it. Raises PublishFailed.

        ``correlation`` is the correlation data of a request that is answered (MQTT 5, 4.10).
        """
        ...
