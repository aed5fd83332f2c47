"""Connections that are kept open between calls, by origin."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fractal_rm.adapters.http1.connection import Connection
from fractal_rm.adapters.http1.heads import Heads
from fractal_rm.adapters.http1.outbox import Outbox
from fractal_rm.domain.call import Origin

LOOK_EVERY_S = 30.0


class Pool:
    """The last one used is the first one taken, so that what is not needed grows old.

    One that two looks in a row find idle is closed: no call needs a look at the clock for that.

    ``kept`` bounds those of all origins together. It is generous: closing what a burst has opened
    costs more than keeping it, and each one closed holds its port for a minute (TIME-WAIT).
    """

    def __init__(self, kept: int) -> None:
        self._kept = self._allowed = kept
        self.on_freed: Callable[[], None] = lambda: None  # called for each one that was closed
        self._idle_count = 0
        self._outbox = Outbox()
        self._heads = Heads()
        self._idle: dict[Origin, list[Connection]] = {}
        self._open: set[Connection] = set()
        self._look: asyncio.TimerHandle | None = None

    def new_connection(self, origin: Origin, loop: asyncio.AbstractEventLoop) -> Connection:
        """Make a connection that comes back here when it is idle."""
        idle = self._idle.setdefault(origin, [])

        def on_idle(connection: Connection) -> None:
            if self._idle_count >= self._kept:
                connection.close()
                return
            connection.looked_at = False
            idle.append(connection)
            self._idle_count += 1
            if self._look is None:
                self._look = loop.call_later(LOOK_EVERY_S, self._close_old, loop)

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
        """The idle connection that was used last, if there is one."""
        idle = self._idle.get(origin)
        if not idle:
            return None
        self._idle_count -= 1
        return idle.pop()

    def keep_none(self, none: bool) -> None:
        """Close what falls idle, for as long as somebody waits for its file descriptor."""
        self._kept = 0 if none else self._allowed

    def close_one(self) -> None:
        """Close the idle connection that was not used for longest, of one origin or another."""
        for idle in self._idle.values():
            if idle:
                idle[0].close()
                return

    def forget(self, connection: Connection) -> None:
        """A connection that never came to be."""
        self._open.discard(connection)

    def close(self) -> None:
        """Close every connection, idle or not."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        for connection in list(self._open):
            connection.close()

    def _close_old(self, loop: asyncio.AbstractEventLoop) -> None:
        self._look = None
        for idle in self._idle.values():
            for connection in [each for each in idle if each.looked_at]:
                connection.close()
            for connection in idle:
                connection.looked_at = True
        if any(self._idle.values()):
            self._look = loop.call_later(LOOK_EVERY_S, self._close_old, loop)
