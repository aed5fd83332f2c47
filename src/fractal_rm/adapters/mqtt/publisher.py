"""Publishes messages on the open connection.

    sent together with other messages ──acknowledged──> done
           │ the broker closed the connection
           ▼
    sent alone ──acknowledged──> done
           │ the broker closed the connection twice while only this message was unacknowledged
           ▼
        given up

A broker may close the connection, without a reason, each time that it receives a certain message.
If several messages are unacknowledged at that time, each of them may be the cause. So all of them
are suspected. While a suspected message is being sent, every message is sent alone. If the broker
closes the connection twice while the same message is sent alone, that message is not sent again.
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
    """Port `Publisher`. Waits up to ``WAIT_FOR_CONNECTION_S`` until a connection is open."""

    def __init__(self, open_connection: OpenConnection) -> None:
        self._open_connection = open_connection
        # The suspected messages, by digest. The value is how often the broker closed the connection
        # while only this message was unacknowledged.
        self._suspected: dict[bytes, int] = {}
        self._suspects_being_sent = 0

    @property
    def suspected_count(self) -> int:
        """How many messages are suspected of causing the broker to close a connection."""
        return len(self._suspected)

    async def publish(self, topic: str, body: bytes, *, correlation: bytes | None = None) -> None:
        """Publish a message; see `Publisher.publish`."""
        if not self._suspected:
            try:
                connection = await self._connection()
                await connection.publish(topic, body, correlation)
            except ConnectionLost as error:
                self._suspect(_digest(topic, body, correlation), error)
            else:
                return
        try:
            await asyncio.wait_for(
                self._publish_until_acknowledged(topic, body, correlation), RETRY_LIMIT_S
            )
        except asyncio.TimeoutError:
            raise PublishFailed(
                "each connection ended before the message was acknowledged"
            ) from None

    async def _publish_until_acknowledged(
        self, topic: str, body: bytes, correlation: bytes | None
    ) -> None:
        digest = _digest(topic, body, correlation)
        while True:
            connection = await self._connection()
            suspected = digest in self._suspected
            self._suspects_being_sent += suspected
            try:
                if suspected:
                    await _pause(connection)
                alone = self._suspects_being_sent > 0
                await connection.publish(topic, body, correlation, alone=alone)
            except ConnectionLost as error:
                self._suspect(digest, error)
                continue
            except PublishFailed as error:
                if error.final:
                    self._suspected.pop(digest, None)
                raise
            finally:
                self._suspects_being_sent -= suspected
            self._suspected.pop(digest, None)
            return

    def _suspect(self, digest: bytes, error: ConnectionLost) -> None:
        """Note that a message may have ended the connection.

        Raises PublishFailed if the message is certainly the cause.
        """
        if not error.closed_by_broker:
            return
        count = self._suspected.pop(digest, 0) + error.alone
        if count >= MAX_ENDED_ALONE:
            raise PublishFailed(
                f"the broker closed the connection {count} times while only this message was"
                f" unacknowledged, so the message is not sent again ({error})",
                final=True,
            )
        if len(self._suspected) >= MAX_SUSPECTS:
            del self._suspected[next(iter(self._suspected))]
        self._suspected[digest] = count

    async def _connection(self) -> Connection:
        """The open connection. Raises PublishFailed."""
        connection = await self._open_connection.wait(WAIT_FOR_CONNECTION_S)
        if connection is None:
            raise PublishFailed("no broker is connected")
        if self._open_connection.perhaps_ended_by_message:
            await _pause(connection)
        return connection


async def _pause(connection: Connection) -> None:
    """Wait until the connection has been open for ``PAUSE_S``.

    Meanwhile, redelivered messages are acknowledged. Without this pause, a reply could end the
    connection before the trigger of its run is acknowledged. The broker would redeliver the
    trigger, and a second run would send such a reply again.
    """
    await asyncio.sleep(connection.opened_s + PAUSE_S - asyncio.get_running_loop().time())


def _digest(topic: str, body: bytes, correlation: bytes | None) -> bytes:
    digest = blake2b(digest_size=16)
    for part in (topic.encode("utf-8", "surrogatepass"), correlation or b"", body):
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.digest()
