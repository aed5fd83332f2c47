"""A publisher without a broker."""

from __future__ import annotations

from fractal_rm.domain.call_errors import PublishFailed


class MemoryPublisher:
    """Port `Publisher`. Records messages. Raises PublishFailed while ``down`` is set."""

    def __init__(self, *, down: bool = False) -> None:
        self.down = down
        self.published: list[tuple[str, bytes, bytes | None]] = []  # topic, body, correlation

    async def publish(self, topic: str, body: bytes, *, correlation: bytes | None = None) -> None:
        """Record a message; see the port."""
        if self.down:
            raise PublishFailed("the broker is down")
        self.published.append((topic, body, correlation))
