"""The open connection of a session, shared by the connect loop and the publisher."""

from __future__ import annotations

import asyncio

from fractal_rm.adapters.mqtt.connection import Connection


class OpenConnection:
    """Stores the open connection. Tasks can wait until a connection is open."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._opened = asyncio.Event()
        # Whether the broker may have closed the last connection because of a message that we sent.
        self.perhaps_ended_by_message = False

    @property
    def connection(self) -> Connection | None:
        """The open connection; None while no connection is open."""
        return self._connection

    def set(self, connection: Connection | None) -> None:
        """Set the connection that was opened, or None when it has ended."""
        if self._connection is not None:
            self.perhaps_ended_by_message = self._connection.perhaps_ended_by_message
        self._connection = connection
        if connection is None:
            self._opened.clear()
        else:
            self._opened.set()

    async def wait(self, limit_s: float) -> Connection | None:
        """Return the open connection. Returns None if none is open within ``limit_s`` seconds."""
        if self._connection is not None and not self._connection.connected:
            self.set(None)  # the connection has ended; the connect loop will call this later
        if self._connection is None:
            try:
                await asyncio.wait_for(self._opened.wait(), limit_s)
            except asyncio.TimeoutError:
                return None
        return self._connection
