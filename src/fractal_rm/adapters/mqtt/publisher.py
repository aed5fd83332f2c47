"""Messages to the broker, by whichever link is open."""

from __future__ import annotations

import asyncio

from fractal_rm.adapters.mqtt.link import Link
from fractal_rm.domain.errors import PublishFailed

WAIT_FOR_LINK_S = 5.0  # a node that has just begun, or a broker, is back within this as a rule


class MqttPublisher:
    """Port `Publisher`. The intake says which ``link`` is open; without one it is waited for.

    ``served``: this process speaks MQTT at all.
    """

    def __init__(self, *, served: bool = True) -> None:
        self._served = served
        self._link: Link | None = None
        self._linked = asyncio.Event()

    @property
    def link(self) -> Link | None:
        """The open connection to the broker."""
        return self._link

    @link.setter
    def link(self, link: Link | None) -> None:
        self._link = link
        if link is None:
            self._linked.clear()
        else:
            self._linked.set()

    async def publish(self, topic: str, body: bytes, *, correlation: bytes | None = None) -> None:
        """Publish once; see the port."""
        if not self._served:
            raise PublishFailed("this process serves no MQTT: start it with `up`", final=True)
        try:
            await asyncio.wait_for(self._linked.wait(), WAIT_FOR_LINK_S)
        except asyncio.TimeoutError:
            raise PublishFailed("no broker is connected") from None
        link = self._link
        if link is None:  # it has gone in the same turn
            raise PublishFailed("the broker has just gone")
        await link.publish(topic, body, correlation=correlation)
