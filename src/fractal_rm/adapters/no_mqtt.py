"""A publisher for a process that does not connect to an MQTT broker."""

from __future__ import annotations

from fractal_rm.domain.call_errors import PublishFailed


class NoMqtt:
    """Port `Publisher`. Refuses every message."""

    async def publish(self, topic: str, body: bytes, *, correlation: bytes | None = None) -> None:  # noqa: ARG002
        """Refuse the message. Raises PublishFailed."""
        raise PublishFailed("this process does not use MQTT: start it with `up`", final=True)
