"""Checks by pings whether a connection is alive (MQTT 5, 3.1.2.10)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum

from fractal_rm.adapters.mqtt.client import Client

# gmqtt itself would ping after up to 1.3 times the keepalive. That is too late for NATS servers: if
# the keepalive is 1 s, they close the connection after 1 s without a packet.
PING_AFTER_KEEPALIVES = 0.7
DEAD_AFTER_KEEPALIVES = 1.4
_CHECKS_PER_KEEPALIVE = 16


class KeepAliveAction(Enum):
    """What to do after a check of the connection."""

    NOTHING = "nothing"
    PING = "ping"
    DEAD = "dead"


def keepalive_action(
    keepalive_s: float, *, received_ago_s: float, sent_ago_s: float
) -> KeepAliveAction:
    """Decide whether to ping the broker, or to end the connection.

    PING: this node has sent nothing for longer than 0.7 times the keepalive. DEAD: the broker has
    sent nothing for longer than 1.4 times the keepalive.
    """
    if received_ago_s > DEAD_AFTER_KEEPALIVES * keepalive_s:
        return KeepAliveAction.DEAD
    if sent_ago_s > PING_AFTER_KEEPALIVES * keepalive_s:
        return KeepAliveAction.PING
    return KeepAliveAction.NOTHING


class KeepAlive:
    """Checks one connection until `stop`.

    ``is_reading`` returns whether packets from the broker are read now. While no packets are read,
    the broker does not count as silent. ``on_silence`` is called with the reason to end the
    connection.
    """

    def __init__(
        self,
        client: Client,
        keepalive_s: float,
        is_reading: Callable[[], bool],
        on_silence: Callable[[str], None],
    ) -> None:
        self._client = client
        self._keepalive_s = keepalive_s  # as configured
        self._is_reading = is_reading
        self._on_silence = on_silence
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def stop(self) -> None:
        """Stop checking."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def check(self) -> None:
        """Check now, and then regularly, with the keepalive in force."""
        if self._stopped:
            return
        if self._timer is not None:
            self._timer.cancel()
        loop, client = asyncio.get_running_loop(), self._client
        keepalive_s, now_s = client.keepalive_s, loop.time()
        if keepalive_s is not None:
            if not self._is_reading():
                client.note_received()
            received_ago_s = now_s - client.received_s
            action = keepalive_action(
                keepalive_s, received_ago_s=received_ago_s, sent_ago_s=now_s - client.sent_s
            )
            if action is KeepAliveAction.DEAD:
                self._on_silence(f"the broker has been silent for {received_ago_s:.0f} s")
                return
            if action is KeepAliveAction.PING and client.connected:
                client.ping()
        next_check_s = (keepalive_s or self._keepalive_s) / _CHECKS_PER_KEEPALIVE
        self._timer = loop.call_later(next_check_s, self.check)
