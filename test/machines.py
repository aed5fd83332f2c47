"""Machines for tests: network namespaces, each with a loopback of its own, joined by one cable.

A thread of this process lives in each namespace: what it opens and what it starts is there.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from brokers import need

CLONE_NEWNET = 0x40000000


class Machine:
    """Calls are made on it one after another; what is listed in ``addresses`` it has."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self._thread = ThreadPoolExecutor(1)
        self.thread_id = self.call(self._leave)

    @staticmethod
    def _leave() -> int:
        """Leave the namespace of this process."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return threading.get_native_id()

    def call(self, made: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """What a function returns, called on this machine."""
        return self._thread.submit(made, *args, **named).result(60)

    def ip(self, *words: str) -> None:
        """Run `ip` on this machine."""
        done = self.call(subprocess.run, ["ip", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def up(self) -> None:
        """Give the cable's end its addresses."""
        self.ip("link", "set", "lo", "up")
        self.ip("link", "set", "cable", "up")
        for address in self.addresses:
            # No other machine can have it, so it need not be asked for first.
            more = ("nodad",) if ":" in address else ()
            self.ip("address", "add", address, "dev", "cable", *more)

    def end(self) -> None:
        """The namespace goes with its last process and its thread."""
        self._thread.shutdown()


@contextmanager
def joined(first: Machine, second: Machine) -> Iterator[None]:
    """Two machines with a cable between them."""
    try:
        first.ip("link", "add", "cable", "type", "veth",
                 "peer", "name", "cable", "netns", str(second.thread_id))  # fmt: skip
        first.up()
        second.up()
        yield
    finally:
        first.end()
        second.end()


def machine(*addresses: str) -> Machine:
    """A machine; where none can be made the test is left out, which CI does not accept."""
    need("ip")
    try:
        return Machine(*addresses)
    except OSError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no network namespace: {error}")
        pytest.skip(f"no network namespace: {error}; root may make one")
