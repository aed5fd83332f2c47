"""Checks by pings whether a connection is alive (MQTT 5, 3.1.2.10)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum

from fractal_rm.adapters.mqtt.client import Client

PING_AFTER_KEEPALIVES = 0.7  # gmqtt pings after up to 1.3; NATS servers close at 1 if it is 1 s
DEAD_AFTER_KEEPALIVES = 1.4
_CHECKS_PER_KEEPALIVE = 16


class Heartbeat(Enum):
    """What a check of the connection asks for."""

    NOTHING = "nothing"
    PING = "ping"
    DEAD = "dead"


def heartbeat(keepalive_s: float, *, received_ago_s: float, sent_ago_s: float) -> Heartbeat:
    """PING before a keepalive passes without a packet from us; DEAD if the broker stays silent."""
    if received_ago_s > DEAD_AFTER_KEEPALIVES * keepalive_s:
        return Heartbeat.DEAD
    return Heartbeat.PING if sent_ago_s > PING_AFTER_KEEPALIVES * keepalive_s else Heartbeat.NOTHING


class KeepAlive:
    """Checks one connection until `stop`.

    ``listening`` returns whether packets from the broker would be read now. If not, its silence
    does not count. ``on_dead`` gets the reason.
    """

    def __init__(
        self,
        client: Client,
        keepalive_s: float,
        listening: Callable[[], bool],
        on_dead: Callable[[str], None],
    ) -> None:
        self._client = client
        self._keepalive_s = keepalive_s  # the configured one
        self._listening = listening
        self._on_dead = on_dead
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def stop(self) -> None:
        """Check no more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def check(self) -> None:
        """Check now, and from now on regularly, with the keepalive that the broker has set."""
        if self._stopped:
            return
        if self._timer is not None:
            self._timer.cancel()
        loop, client = asyncio.get_running_loop(), self._client
        keepalive_s, now_s = client.keepalive_s, loop.time()
        if keepalive_s is not None:
            if not self._listening():
                client.note_received()
            received_ago_s = now_s - client.received_s
            found = heartbeat(
                keepalive_s, received_ago_s=received_ago_s, sent_ago_s=now_s - client.sent_s
            )
            if found is Heartbeat.DEAD:
                self._on_dead(f"the broker has been silent for {received_ago_s:.0f} s")
                return
            if found is Heartbeat.PING and client.connected:
                client.ping()
        again_s = (keepalive_s or self._keepalive_s) / _CHECKS_PER_KEEPALIVE
        self._timer = loop.call_later(again_s, self.check)
