"""Random numbers and the limit of open files, from the operating system."""

from __future__ import annotations

import os
import random
import resource
import sys

# Random bytes are read in advance: a system call for each run id would double the cost of the id.
_BUFFER_BYTES = 4096


class SystemRandom:
    """Port `Random`. The program has no other source of random numbers."""

    def __init__(self) -> None:
        self._buffer = b""
        self._used = 0

    def fraction(self) -> float:
        """A random number from 0 up to, but not including, 1."""
        return random.random()  # noqa: TID251, S311 - the only source; used for jitter

    def token(self, size: int) -> bytes:
        """``size`` random bytes."""
        if self._used + size > len(self._buffer):
            self._buffer, self._used = os.urandom(max(size, _BUFFER_BYTES)), 0
        self._used += size
        return self._buffer[self._used - size : self._used]


def raise_open_file_limit() -> int:
    """Raise the soft limit of open files (often 1,024) to the hard limit. Returns the new limit."""
    soft_limit, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft_limit != limit:  # a hardened service may not set limits
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
