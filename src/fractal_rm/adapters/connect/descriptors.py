"""Waits for a file descriptor when the process or the machine has none left."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from collections.abc import Callable

from fractal_rm.domain.descriptors import is_out_of_descriptors

# The pause before a retry. Retries are necessary because `note_freed` is not called if other code
# or another process closes a descriptor.
RETRY_S = 0.1


class DescriptorQueue:
    """Several queues of requests for a file descriptor. The queues take turns.

    ``close_unneeded`` closes a connection that is not needed, if there is one. ``on_shortage`` is
    called with True while a request waits, and with False when no request waits any more. Call
    `note_freed` after closing a descriptor.
    """

    def __init__(
        self,
        close_unneeded: Callable[[], None] = lambda: None,
        on_shortage: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._close_unneeded = close_unneeded
        self._on_shortage = on_shortage
        # The first request of each queue waits for this lock, which is taken in order of arrival.
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()
        self.waiting_count = 0  # how many requests wait
        self._errno = errno.EMFILE  # the error of the last attempt

    @property
    def has_waiting(self) -> bool:
        """Whether a request waits. If so, a new request must wait behind it."""
        return self.waiting_count > 0

    def note_freed(self) -> None:
        """Note that a descriptor may have become free."""
        self._freed.set()

    async def get(self, queue: asyncio.Lock) -> socket.socket:
        """Wait for a descriptor without a time limit. Returns an open socket that reserves it.

        Close the socket to release the descriptor. All requests of a queue share the lock
        ``queue``.
        """
        self.waiting_count += 1
        self._on_shortage(True)
        try:
            async with queue, self._turn:
                while True:
                    self._freed.clear()
                    try:
                        return socket.socket()
                    except OSError as error:
                        if not is_out_of_descriptors(error):
                            raise
                        self._errno = error.errno
                    self._close_unneeded()
                    await self._wait_to_retry()
        finally:
            self.waiting_count -= 1
            self._on_shortage(self.has_waiting)

    def describe(self) -> str:
        """A text for people: which limit is reached, and where to raise it."""
        if self._errno == errno.ENFILE:
            return "all file descriptors of this machine are in use (raise sysctl fs.file-max)"
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"all file descriptors are in use; this process may have {limit} (ulimit -n)"

    async def _wait_to_retry(self) -> None:
        try:
            await asyncio.wait_for(self._freed.wait(), RETRY_S)
        except asyncio.TimeoutError:
            return
