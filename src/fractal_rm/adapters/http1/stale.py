"""A kept connection whose server had let it go when the next request was sent on it.

A server that wants no more of an idle connection closes it, or says so first (RFC 9110, 15.5.9;
RFC 9112, 9.5), and that may cross our request on the way.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
import termios

from fractal_rm.domain.call import Reply

REQUEST_TIMEOUT = 408


class Stale(Exception):
    """A kept connection ended without an answer to the request, or with ``reply``, an error.

    ``unread_bytes`` had not yet come to the server's machine when the reply came. Only connections
    that have answered before raise it, so asking on a new one ends.
    """

    def __init__(self, reply: Reply | None = None, unread_bytes: int = 0) -> None:
        super().__init__()
        self._reply = reply
        self._unread_bytes = unread_bytes

    def answer_to(self, request: bytes) -> Reply | None:
        """The reply, if it is one to the request.

        A 408 is none: it says that no request came. Neither is what was sent before the first byte
        of the request came.
        """
        reply = self._reply
        if reply is None or reply.status == REQUEST_TIMEOUT:
            return None
        return None if self._unread_bytes >= len(request) else reply


def unread_bytes(transport: asyncio.Transport | None) -> int:
    """What was written and the other side's machine has not acknowledged (tcp(7), SIOCOUTQ)."""
    if transport is None:
        return 0
    sock: socket.socket = transport.get_extra_info("socket")
    try:
        found = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:  # a system that cannot tell
        return transport.get_write_buffer_size()
    return transport.get_write_buffer_size() + int.from_bytes(found, sys.byteorder)
