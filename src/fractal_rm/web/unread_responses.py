"""Disconnects clients that do not read their responses."""

from __future__ import annotations

import asyncio


class UnreadResponseWatch:
    """Aborts a transport if its write buffer has the same size at two successive checks.

    It is not closed with `close`, which would wait until the buffer is empty.
    """

    def __init__(
        self, transport: asyncio.WriteTransport, loop: asyncio.AbstractEventLoop, every_s: float
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._every_s = every_s
        self._unsent_bytes = 0
        self._timer = loop.call_later(every_s, self._check)

    def cancel(self) -> None:
        """Stop checking."""
        self._timer.cancel()

    def _check(self) -> None:
        unsent_bytes = self._transport.get_write_buffer_size()
        if unsent_bytes and unsent_bytes == self._unsent_bytes:
            self._transport.abort()
            return
        self._unsent_bytes = unsent_bytes
        self._timer = self._loop.call_later(self._every_s, self._check)
