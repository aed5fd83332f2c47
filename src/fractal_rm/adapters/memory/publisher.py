"""A publisher without a broker."""

from __future__ import annotations

from typing import NamedTuple

from fractal_rm.domain.call_errors import PublishFailed


class Published(NamedTuple):
    """A message that was given to a `MemoryPublisher`."""

    topic: str
    body: bytes
    correlation: bytes | None


class MemoryPublisher:
    """Port `Publisher`. Records messages. Raises PublishFailed while ``down`` is set."""

    def __init__(self, *, down: bool = False) -> None:
        self.down = down
        self.published: list[Published] = []

    async def publish(self, topic: str, body: bytes, *, correlation: bytes | None = None) -> None:
        """Record a message; see the port."""
        if self.down:
            raise PublishFailed("the broker is down")
        self.published.append(Published(topic, body, correlation))
