"""Closes a connection so that its client gets the last answer.

A socket that is closed while its client still sends is reset, and the reset takes away what was
sent last: a client that first sends all of its body and then reads would never see that it was
refused. So the sending side is closed, and what still comes is read and dropped, until the client
closes, within a time and a number of bytes (RFC 9112, 9.6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

READ_ON_S = 30.0
READ_ON_BYTES = 64 * 1024 * 1024


class ClosingTransport:
    """A transport whose `close` reads on; everything else it leaves to the real one.

    ``is_whole``: whether all of what the client has begun to send was read.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        is_whole: Callable[[], bool],
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._is_whole = is_whole
        self._left = READ_ON_BYTES
        self.client_ended = False
        self._end: asyncio.TimerHandle | None = None
        self.write = transport.write
        self.abort = transport.abort
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.get_extra_info = transport.get_extra_info
        self.get_write_buffer_size = transport.get_write_buffer_size

    def is_closing(self) -> bool:
        """Whether nothing more is to be sent."""
        return self._end is not None or self._transport.is_closing()

    def close(self) -> None:
        """Close what is between two requests; read on in the midst of one."""
        if self._is_whole():
            self._transport.close()
        else:
            self.read_on()

    def read_on(self) -> None:
        """Send no more, and close when the client does."""
        if self.is_closing():
            return
        if self.client_ended:
            self._transport.close()
            return
        self._end = self._loop.call_later(READ_ON_S, self._transport.close)
        self._transport.write_eof()
        self._transport.resume_reading()

    def end(self) -> None:
        """Read no more, and close when what was written is sent."""
        self._transport.close()

    def drop(self, data: bytes) -> None:
        """Take what came since."""
        self._left -= len(data)
        if self._left < 0:
            self._transport.close()

    def lost(self) -> None:
        """The connection is gone."""
        if self._end is not None:
            self._end.cancel()
