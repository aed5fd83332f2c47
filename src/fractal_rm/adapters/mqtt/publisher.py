"""Messages to the broker, by whichever link is open."""

from __future__ import annotations

from fractal_rm.adapters.mqtt.link import Link
from fractal_rm.domain.errors import PublishFailed


class MqttPublisher:
    """Port `Publisher`. The intake says which ``link`` is open; without one nothing is sent."""

    def __init__(self) -> None:
        self.link: Link | None = None

    async def publish(self, topic: str, body: bytes, *, correlation: bytes | None = None) -> None:
        """Publish once; see the port."""
        if self.link is None:
            raise PublishFailed("no broker is connected")
        await self.link.publish(topic, body, correlation=correlation)
