"""The open connection of a session, shared by all that use it."""

from __future__ import annotations

import asyncio

from fractal_rm.adapters.mqtt.connection import Connection


class OpenConnection:
    """``connection`` is None while no connection is open."""

    def __init__(self) -> None:
        self._connection: Connection | None = None
        self._opened = asyncio.Event()
        self.ended_by_message = False  # perhaps the last one was, by a message of ours

    @property
    def connection(self) -> Connection | None:
        """The open connection, if there is one."""
        return self._connection

    def set(self, connection: Connection | None) -> None:
        """A connection was opened, or has ended (None)."""
        if self._connection is not None:
            self.ended_by_message = self._connection.perhaps_ended_by_message
        self._connection = connection
        if connection is None:
            self._opened.clear()
        else:
            self._opened.set()

    async def wait(self, limit_s: float) -> Connection | None:
        """The open connection; waits up to ``limit_s`` for one."""
        if self._connection is not None and not self._connection.connected:
            self.set(None)  # it has ended, and the connect loop has not noticed yet
        if self._connection is None:
            try:
                await asyncio.wait_for(self._opened.wait(), limit_s)
            except asyncio.TimeoutError:
                return None
        return self._connection
