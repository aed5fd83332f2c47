"""Requests on an idle connection that the server was already closing.

A server may close an idle connection, or send an error such as 408 and then close the connection
(RFC 9110, 15.5.9; RFC 9112, 9.5). Our next request may be on its way at that time.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
import termios

from fractal_rm.domain.call import HttpResponse

REQUEST_TIMEOUT = 408


class StaleConnection(Exception):
    """A reused connection ended without a reply, or with an error: ``reply``.

    ``unread_bytes``: how many of our bytes the server's machine had not received when the reply
    arrived. ``maybe_read``: whether the server may have read the request. A connection raises this
    error only if it was used before. So the error does not occur again if the request is sent again
    on a new connection.
    """

    def __init__(
        self, reply: HttpResponse | None = None, unread_bytes: int = 0, *, maybe_read: bool = True
    ) -> None:
        super().__init__()
        self.maybe_read = maybe_read
        self._reply = reply
        self._unread_bytes = unread_bytes

    def answer_to(self, request: bytes) -> HttpResponse | None:
        """The reply, if it is an answer to this request; else None.

        A 408 is not an answer to this request: it means that no request arrived. A reply that was
        sent before the first byte of this request arrived is not an answer to it, either.
        """
        reply = self._reply
        if reply is None or reply.status == REQUEST_TIMEOUT:
            return None
        return None if self._unread_bytes >= len(request) else reply


def unread_bytes(transport: asyncio.Transport | None) -> int:
    """How many written bytes the other machine has not acknowledged (tcp(7), SIOCOUTQ)."""
    if transport is None:
        return 0
    sock: socket.socket = transport.get_extra_info("socket")
    try:
        unacknowledged = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:  # this system does not support TIOCOUTQ
        return transport.get_write_buffer_size()
    return transport.get_write_buffer_size() + int.from_bytes(unacknowledged, sys.byteorder)
