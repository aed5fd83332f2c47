"""Idle connections, kept open for the next calls to the same origin."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fractal_rm.adapters.http1.connection import Connection
from fractal_rm.adapters.http1.heads import HeadCache
from fractal_rm.adapters.http1.outbox import Outbox
from fractal_rm.domain.call import Origin

SWEEP_EVERY_S = 30.0


class Pool:
    """A stack of idle connections for each origin.

    A call takes the top connection, so unneeded connections stay at the bottom. Each sweep closes
    the connections that have been idle since the previous sweep. So a call need not read the clock.

    ``max_idle`` limits the idle connections of all origins together. The limit should be high.
    Closing the connections of a burst costs more than keeping them open, and each closed connection
    occupies its port for a minute (TIME-WAIT).
    """

    def __init__(self, max_idle: int) -> None:
        self._max_idle = self._configured_max_idle = max_idle
        self.on_freed: Callable[[], None] = lambda: None  # called for each closed connection
        self._idle_count = 0
        self._outbox = Outbox()
        self._heads = HeadCache()
        self._idle: dict[Origin, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._sweep_timer: asyncio.TimerHandle | None = None

    @property
    def open_count(self) -> int:
        """How many connections are open or being opened."""
        return len(self._open)

    @property
    def established_count(self) -> int:
        """How many connections are open now."""
        return sum(connection.is_established for connection in self._open)

    def new_connection(self, origin: Origin, loop: asyncio.AbstractEventLoop) -> Connection:
        """Make a connection. The pool stores the connection whenever it is idle."""
        idle = self._idle.setdefault(origin, [])

        def on_idle(connection: Connection) -> None:
            if self._idle_count >= self._max_idle:
                connection.close()
                return
            connection.was_idle_at_sweep = False
            idle.append(connection)
            self._idle_count += 1
            if self._sweep_timer is None:
                self._sweep_timer = loop.call_later(SWEEP_EVERY_S, self._sweep, loop)

        def on_closed(connection: Connection) -> None:
            self._open.discard(connection)
            if connection in idle:
                idle.remove(connection)
                self._idle_count -= 1
            self.on_freed()

        connection = Connection(on_idle, on_closed, self._outbox, self._heads)
        self._open.add(connection)
        return connection

    def take(self, origin: Origin) -> Connection | None:
        """Take the idle connection that was used last, if there is one."""
        idle = self._idle.get(origin)
        if not idle:
            return None
        self._idle_count -= 1
        return idle.pop()

    def set_short_of_descriptors(self, short: bool) -> None:
        """While ``short`` is true, close connections instead of keeping them idle."""
        self._max_idle = 0 if short else self._configured_max_idle

    def close_one(self) -> None:
        """Close the oldest idle connection of one origin, if any connection is idle."""
        for idle in self._idle.values():
            if idle:
                idle[0].close()
                return

    def forget(self, connection: Connection) -> None:
        """Forget a connection that could not be opened."""
        self._open.discard(connection)

    def close(self) -> None:
        """Close every connection, idle or not."""
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
            self._sweep_timer = None
        for connection in list(self._open):
            connection.close()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweep_timer = None
        for idle in self._idle.values():
            for connection in [each for each in idle if each.was_idle_at_sweep]:
                connection.close()
            for connection in idle:
                connection.was_idle_at_sweep = True
        if any(self._idle.values()):
            self._sweep_timer = loop.call_later(SWEEP_EVERY_S, self._sweep, loop)
