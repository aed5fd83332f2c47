"""Messages to the broker, by whichever link is open.

    sent with others ──acknowledged──> done
           │ the broker ended the connection
           ▼
    sent alone ──acknowledged──> done
           │ it ended twice with nothing else on its way
           ▼
        given up

A broker that does not take a message may end the connection instead of saying so, and would do it
each time that the message is sent. Which one it was is known only where one was sent alone. So
while one is in doubt, every message is sent alone.
"""

from __future__ import annotations

import asyncio
from hashlib import blake2b

from fractal_rm.adapters.mqtt.link import Link
from fractal_rm.adapters.mqtt.outgoing import LinkGone
from fractal_rm.domain.call_errors import PublishFailed

WAIT_FOR_LINK_S = 5.0  # a node that has just begun, or a broker, is back within this as a rule
PATIENCE_S = 300.0
CALM_S = 0.5
GIVEN_UP_AT = 2
MOST_DOUBTED = 1_000


class MqttPublisher:
    """Port `Publisher`. The intake says which ``link`` is open; without one it is waited for.

    ``served``: this process speaks MQTT at all.
    """

    def __init__(self, *, served: bool = True) -> None:
        self._served = served
        self._link: Link | None = None
        self._linked = asyncio.Event()
        self._at_risk = False  # the broker may have ended the link before for a message of ours
        # Messages, by digest, that were on their way when the broker ended a connection, and how
        # often they were alone then.
        self._doubted: dict[bytes, int] = {}
        self._sending_doubted = 0

    @property
    def link(self) -> Link | None:
        """The open connection to the broker."""
        return self._link

    @link.setter
    def link(self, link: Link | None) -> None:
        if self._link is not None:
            self._at_risk = self._link.perhaps_ended_by_ours
        self._link = link
        if link is None:
            self._linked.clear()
        else:
            self._linked.set()

    async def publish(self, topic: str, body: bytes, *, correlation: bytes | None = None) -> None:
        """Publish once; see the port."""
        if not self._served:
            raise PublishFailed("this process serves no MQTT: start it with `up`", final=True)
        if not self._doubted:
            try:
                await (await self._opened()).publish(topic, body, correlation)
            except LinkGone as gone:
                self._doubt(_digest(topic, body, correlation), gone)
            else:
                return
        try:
            await asyncio.wait_for(self._until_taken(topic, body, correlation), PATIENCE_S)
        except asyncio.TimeoutError:
            raise PublishFailed("the connection ends each time before it is acknowledged") from None

    async def _until_taken(self, topic: str, body: bytes, correlation: bytes | None) -> None:
        digest = _digest(topic, body, correlation)
        while True:
            link = await self._opened()
            doubted = digest in self._doubted
            self._sending_doubted += doubted
            try:
                if doubted:
                    await _calm(link)
                alone = self._sending_doubted > 0
                await link.publish(topic, body, correlation, alone=alone)
            except LinkGone as gone:
                self._doubt(digest, gone)
                continue
            except PublishFailed as refused:
                if refused.final:
                    self._doubted.pop(digest, None)
                raise
            finally:
                self._sending_doubted -= doubted
            self._doubted.pop(digest, None)
            return

    def _doubt(self, digest: bytes, gone: LinkGone) -> None:
        """Remember it as one that may have ended the connection. Raises PublishFailed."""
        if not gone.cut:
            return
        times = self._doubted.pop(digest, 0) + gone.alone
        if times >= GIVEN_UP_AT:
            raise PublishFailed(
                f"the broker ended the connection {times} times when only this was sent,"
                f" so it is given up ({gone})",
                final=True,
            )
        if len(self._doubted) >= MOST_DOUBTED:
            del self._doubted[next(iter(self._doubted))]
        self._doubted[digest] = times

    async def _opened(self) -> Link:
        """The open link. Raises PublishFailed."""
        if self._link is not None and not self._link.connected:
            self.link = None  # its intake has not seen it yet
        if self._link is None:
            try:
                await asyncio.wait_for(self._linked.wait(), WAIT_FOR_LINK_S)
            except asyncio.TimeoutError:
                raise PublishFailed("no broker is connected") from None
        link = self._link
        if link is None:  # it has gone in the same turn
            raise PublishFailed("the broker has just gone")
        if self._at_risk:
            await _calm(link)
        return link


async def _calm(link: Link) -> None:
    """Wait until what comes again by a new link had time to be acknowledged.

    Triggers whose replies end the link would run again after each end, and make more of them.
    """
    await asyncio.sleep(link.opened_s + CALM_S - asyncio.get_running_loop().time())


def _digest(topic: str, body: bytes, correlation: bytes | None) -> bytes:
    digest = blake2b(digest_size=16)
    for part in (topic.encode("utf-8", "surrogatepass"), correlation or b"", body):
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.digest()
