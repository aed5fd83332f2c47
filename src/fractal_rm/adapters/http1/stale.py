"""A kept connection that the server was already closing when the next request was sent on it.

A server closes an idle connection, or first sends an error such as 408 (RFC 9110, 15.5.9; RFC 9112,
9.5). Meanwhile our next request may be on its way.
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
    """A kept connection ended, without a reply or with ``reply``, which is an error.

    ``unread_bytes``: how much the server's machine had not yet received when the reply came. Only a
    connection with an earlier reply raises this; so on a new connection it is not raised again.
    """

    def __init__(self, reply: HttpResponse | None = None, unread_bytes: int = 0) -> None:
        super().__init__()
        self._reply = reply
        self._unread_bytes = unread_bytes

    def answer_to(self, request: bytes) -> HttpResponse | None:
        """The reply, if it is an answer to this request.

        A 408 is not: it says that no request came. A reply that was sent before the first byte of
        the request arrived is not an answer either.
        """
        reply = self._reply
        if reply is None or reply.status == REQUEST_TIMEOUT:
            return None
        return None if self._unread_bytes >= len(request) else reply


def unread_bytes(transport: asyncio.Transport | None) -> int:
    """The bytes that were written and not acknowledged by the other machine (tcp(7), SIOCOUTQ)."""
    if transport is None:
        return 0
    sock: socket.socket = transport.get_extra_info("socket")
    try:
        found = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:  # this system does not support it
        return transport.get_write_buffer_size()
    return transport.get_write_buffer_size() + int.from_bytes(found, sys.byteorder)
