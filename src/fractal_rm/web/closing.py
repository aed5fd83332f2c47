"""Closes a connection so that its client receives the last response.

If a socket is closed while its client still sends, the kernel resets the connection, and the client
loses the part of the response that it has not read yet. A client that sends its whole body before
it reads would never see a refusal. So this side stops sending, but reads and discards data until
the client closes the connection. The time and the number of bytes are limited (RFC 9112, 9.6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fractal_rm.web.limits import ConnectionLimits


class ClosingTransport:
    """A transport whose `close` waits for the client. Other calls go to the real transport.

    ``request_complete`` returns whether the current request was read completely.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        request_complete: Callable[[], bool],
        limits: ConnectionLimits,
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._request_complete = request_complete
        self._linger_s = limits.linger_s
        self._linger_bytes_left = limits.linger_bytes
        self._linger_timer: asyncio.TimerHandle | None = None
        self.client_sent_eof = False
        self.write = transport.write
        self.abort = transport.abort
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.get_extra_info = transport.get_extra_info
        self.get_write_buffer_size = transport.get_write_buffer_size

    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self._linger_timer is not None or self._transport.is_closing()

    def close(self) -> None:
        """Close at once if no request is being read. Otherwise linger."""
        if self._request_complete():
            self._transport.close()
        else:
            self.linger()

    def linger(self) -> None:
        """Stop sending. Close when the client closes, or when a limit is reached."""
        if self.is_closing():
            return
        if self.client_sent_eof:
            self._transport.close()
            return
        if not self._transport.can_write_eof():  # TLS: `close` sends close_notify, then waits
            self._transport.close()
            return
        self._linger_timer = self._loop.call_later(self._linger_s, self._transport.close)
        self._transport.write_eof()
        self._transport.resume_reading()

    def flush_and_close(self) -> None:
        """Stop reading, and close when the write buffer is empty."""
        self._transport.close()

    def discard(self, data: bytes) -> None:
        """Discard data that arrives while lingering. Close if it is too much."""
        self._linger_bytes_left -= len(data)
        if self._linger_bytes_left < 0:
            self._transport.close()

    def connection_lost(self) -> None:
        """Cancel the timer, as the connection is closed."""
        if self._linger_timer is not None:
            self._linger_timer.cancel()
