"""Port `Publisher`: publishes the messages of `PUBLISH` steps, and replies, by MQTT."""

from __future__ import annotations

from typing import Protocol


class Publisher(Protocol):
    """Publishes messages to the MQTT broker."""

    async def publish(self, topic: str, body: bytes, *, correlation: bytes | None = None) -> None:
        """Publish at QoS 1, and return when the broker has acknowledged. Raises PublishFailed.

        ``correlation``: for a reply, the correlation data of its request (MQTT 5, section 4.10).
        """
        ...
