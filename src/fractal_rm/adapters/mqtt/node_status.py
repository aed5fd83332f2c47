"""The status of this node as a retained message: online, stopped, or lost (the will)."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from fractal_rm.adapters.mqtt.client import Client, Target, status_body
from fractal_rm.adapters.mqtt.errors import ConnectionLost
from fractal_rm.adapters.mqtt.outgoing import OutgoingMessages
from fractal_rm.domain.call_errors import PublishFailed
from fractal_rm.domain.topic import status_topic
from fractal_rm.engine.ports import Telemetry


class NodeStatus:
    """Publishes the status of this node on one connection.

    ``accepted`` and ``refused``: the broker has accepted or refused the status.
    ``ended_connection``: the broker closed the connection while the status was the only
    unacknowledged message.
    """

    def __init__(
        self, target: Target, client: Client, outgoing: OutgoingMessages, telemetry: Telemetry
    ) -> None:
        self._topic = status_topic(target.client_id)
        self._options = target.options
        self._client = client
        self._outgoing = outgoing
        self._telemetry = telemetry
        self._publishing: asyncio.Task[None] | None = None
        self.accepted = self.refused = self.ended_connection = False

    @property
    def published(self) -> bool:
        """Whether this node publishes its status, in addition to the will."""
        return self._options.status and not self.refused

    @property
    def retained(self) -> bool:
        """Whether the broker supports retained messages (MQTT 5, 3.2.2.3.5)."""
        return self._options.retain and self._client.limit("retain_available", 1) == 1

    def publish_online(self) -> None:
        """Start to publish the status "online". Does not wait for the PUBACK."""
        if self._options.status:
            self._publishing = asyncio.create_task(self._publish_online())

    async def publish_stopped(self, limit_s: float) -> None:
        """Publish the status "stopped". Gives up after ``limit_s`` seconds, without an error.

        Does not wait for a PUBACK, since packets are not read any more.
        """
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._publish_unconfirmed("stopped"), limit_s)

    async def wait_until_known(self) -> None:
        """After the connection has ended, wait until `publish_online` has succeeded or failed."""
        if self._publishing is not None:
            await asyncio.wait((self._publishing,))

    @property
    def _qos(self) -> int:
        return min(1, self._client.limit("max_qos", 1))

    async def _publish_unconfirmed(self, state: str) -> None:
        await self._outgoing.publish_unconfirmed(
            self._topic, status_body(state), qos=self._qos, retain=self.retained
        )

    async def _publish_online(self) -> None:
        try:
            if self._qos:
                body = status_body("online")
                await self._outgoing.publish(self._topic, body, retain=self.retained)
            else:
                await self._publish_unconfirmed("online")
        except ConnectionLost as lost:
            self.ended_connection = lost.alone
        except PublishFailed as error:
            self.refused = error.final
            self._telemetry.problem("status_refused", reason=str(error))
        else:
            self.accepted = True
