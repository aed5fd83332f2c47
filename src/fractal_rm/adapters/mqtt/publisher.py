"""Publishes messages on the open connection.

    sent with others ──acknowledged──> done
           │ the broker closed the connection
           ▼
    sent alone ──acknowledged──> done
           │ the broker closed the connection twice while only this message was unacknowledged
           ▼
        given up

A broker that refuses a message may close the connection instead of giving a reason, and would do
so each time that the message is sent. Only a message sent alone shows that it is the cause. So
while any message is suspected, every message is sent alone. A message that is the cause is given
up.
"""

from __future__ import annotations

import asyncio
from hashlib import blake2b

from fractal_rm.adapters.mqtt.connection import Connection
from fractal_rm.adapters.mqtt.errors import ConnectionLost
from fractal_rm.adapters.mqtt.open_connection import OpenConnection
from fractal_rm.domain.call_errors import PublishFailed

WAIT_FOR_CONNECTION_S = 5.0  # usually enough after the start of the node or of the broker
RETRY_LIMIT_S = 300.0
PAUSE_S = 0.5
MAX_ENDED_ALONE = 2
MAX_SUSPECTS = 1_000


class MqttPublisher:
    """Port `Publisher`. Without an open connection it waits for one."""

    def __init__(self, opened: OpenConnection) -> None:
        self._opened = opened
        # Messages that were unacknowledged when the broker closed a connection: how often each was
        # the only one, by digest.
        self._suspects: dict[bytes, int] = {}
        self._sending_suspects = 0

    @property
    def suspects(self) -> int:
        """How many messages are suspected to have ended a connection."""
        return len(self._suspects)

    async def publish(self, topic: str, body: bytes, *, correlation: bytes | None = None) -> None:
        """Publish once; see the port."""
        if not self._suspects:
            try:
                await (await self._connection()).publish(topic, body, correlation)
            except ConnectionLost as lost:
                self._suspect(_digest(topic, body, correlation), lost)
            else:
                return
        try:
            await asyncio.wait_for(
                self._publish_until_acknowledged(topic, body, correlation), RETRY_LIMIT_S
            )
        except asyncio.TimeoutError:
            raise PublishFailed("the connection ends each time before it is acknowledged") from None

    async def _publish_until_acknowledged(
        self, topic: str, body: bytes, correlation: bytes | None
    ) -> None:
        digest = _digest(topic, body, correlation)
        while True:
            connection = await self._connection()
            suspected = digest in self._suspects
            self._sending_suspects += suspected
            try:
                if suspected:
                    await _pause(connection)
                alone = self._sending_suspects > 0
                await connection.publish(topic, body, correlation, alone=alone)
            except ConnectionLost as lost:
                self._suspect(digest, lost)
                continue
            except PublishFailed as refused:
                if refused.final:
                    self._suspects.pop(digest, None)
                raise
            finally:
                self._sending_suspects -= suspected
            self._suspects.pop(digest, None)
            return

    def _suspect(self, digest: bytes, lost: ConnectionLost) -> None:
        """Remember a message that may have ended the connection. Raises PublishFailed."""
        if not lost.cut:
            return
        times = self._suspects.pop(digest, 0) + lost.alone
        if times >= MAX_ENDED_ALONE:
            raise PublishFailed(
                f"the broker closed the connection {times} times while only this message was"
                f" unacknowledged, so it is given up ({lost})",
                final=True,
            )
        if len(self._suspects) >= MAX_SUSPECTS:
            del self._suspects[next(iter(self._suspects))]
        self._suspects[digest] = times

    async def _connection(self) -> Connection:
        """The open connection. Raises PublishFailed."""
        connection = await self._opened.wait(WAIT_FOR_CONNECTION_S)
        if connection is None:
            raise PublishFailed("no broker is connected")
        if self._opened.ended_by_message:
            await _pause(connection)
        return connection


async def _pause(connection: Connection) -> None:
    """Leave time to acknowledge what the broker sends again on a new connection.

    Otherwise triggers whose replies end the connection would run again after each end, and produce
    more such replies.
    """
    await asyncio.sleep(connection.opened_s + PAUSE_S - asyncio.get_running_loop().time())


def _digest(topic: str, body: bytes, correlation: bytes | None) -> bytes:
    digest = blake2b(digest_size=16)
    for part in (topic.encode("utf-8", "surrogatepass"), correlation or b"", body):
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.digest()
