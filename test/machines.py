"""Machines for tests: two network namespaces, joined by a virtual cable.

Each namespace has a thread of this process. The sockets that the thread opens, and the processes
that it starts, are in its namespace.
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
    """A network namespace with addresses. Calls run in its thread, one after another."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self._thread = ThreadPoolExecutor(1)
        self.thread_id = self.call(self._enter_namespace)

    @staticmethod
    def _enter_namespace() -> int:
        """Move this thread to a new namespace; return the id of the thread."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return threading.get_native_id()

    def call(self, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """Call a function on this machine; return its result."""
        return self._thread.submit(function, *args, **named).result(60)

    def ip(self, *words: str) -> None:
        """Run `ip` on this machine."""
        done = self.call(subprocess.run, ["ip", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def up(self) -> None:
        """Enable this machine's end of the cable, and give it the addresses."""
        self.ip("link", "set", "lo", "up")
        self.ip("link", "set", "cable", "up")
        for address in self.addresses:
            # Without duplicate address detection, since no other machine can have the address.
            more = ("nodad",) if ":" in address else ()
            self.ip("address", "add", address, "dev", "cable", *more)

    def end(self) -> None:
        """End the thread. The kernel removes a namespace when nothing uses it."""
        self._thread.shutdown()


@contextmanager
def joined(first: Machine, second: Machine) -> Iterator[None]:
    """Connect two machines with a cable."""
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
    """Make a machine. Without permission for that, the test is skipped, or fails in CI."""
    need("ip")
    try:
        return Machine(*addresses)
    except OSError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no network namespace: {error}")
        pytest.skip(f"no network namespace: {error}; only root may make one")
