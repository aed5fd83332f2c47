"""Publishing: messages from `PUBLISH` steps and replies go to the MQTT broker."""

from __future__ import annotations

from typing import Protocol


class Publisher(Protocol):
    """Sends messages to the MQTT broker."""

    async def publish(self, topic: str, body: bytes, *, correlation: bytes | None = None) -> None:
        """Publish at QoS 1; returns when the broker has acknowledged it. Raises PublishFailed.

        ``correlation`` is the correlation data of the request that this replies to (MQTT 5, 4.10).
        """
        ...
