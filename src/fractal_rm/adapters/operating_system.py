"""The chance of the machine, and how many files it allows."""

from __future__ import annotations

import os
import random
import resource
import sys

_DRAWN_AT_ONCE = 4096  # a system call for each run id would cost as much as the id


class SystemRandom:
    """Port `Random`: the only place that draws."""

    def __init__(self) -> None:
        self._drawn = b""
        self._at = 0

    def fraction(self) -> float:
        """From 0 up to, not including, 1."""
        return random.random()  # noqa: TID251, S311 - this is the source, and it is jitter

    def token(self, size: int) -> bytes:
        """``size`` random bytes."""
        if self._at + size > len(self._drawn):
            self._drawn, self._at = os.urandom(max(size, _DRAWN_AT_ONCE)), 0
        self._at += size
        return self._drawn[self._at - size : self._at]


def raise_open_files() -> int:
    """Take all the open files that this process may have; it is begun with leave for 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return sys.maxsize if most == resource.RLIM_INFINITY else most
