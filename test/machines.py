"""Simulated machines for tests: network namespaces, connected by a virtual cable.

Each namespace has a thread of this process. The sockets that the thread opens, and the processes
that the thread starts, belong to the namespace.
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
    """A simulated machine: a network namespace with addresses and a thread."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self._thread = ThreadPoolExecutor(1)
        self.thread_id = self.call(self._enter_namespace)

    @staticmethod
    def _enter_namespace() -> int:
        """Move the current thread to a new namespace. Returns the id of the thread."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return threading.get_native_id()

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function in the thread of this machine. Returns the result of the function.

        Calls run one after another. Raises TimeoutError after 60 s.
        """
        return self._thread.submit(function, *args, **kwargs).result(60)

    def ip(self, *words: str) -> None:
        """Run the command `ip` on this machine. Asserts that the command succeeds."""
        done = self.call(subprocess.run, ["ip", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def up(self) -> None:
        """Enable this machine's end of the cable, and give it the addresses."""
        self.ip("link", "set", "lo", "up")
        self.ip("link", "set", "cable", "up")
        for address in self.addresses:
            # nodad: an IPv6 address is used at once, without duplicate address detection.
            options = ("nodad",) if ":" in address else ()
            self.ip("address", "add", address, "dev", "cable", *options)

    def end(self) -> None:
        """End the thread. Then the kernel removes the namespace, because nothing uses it."""
        self._thread.shutdown()


@contextmanager
def connect(first: Machine, second: Machine) -> Iterator[None]:
    """Connect two machines with a cable. At the end of the block, both machines are removed."""
    try:
        first.ip("link", "add", "cable", "type", "veth",
                 "peer", "name", "cable", "netns", str(second.thread_id))  # fmt: skip
        first.up()
        second.up()
        yield
    finally:
        first.end()
        second.end()


@contextmanager
def connect_all(first: Machine, *others: Machine) -> Iterator[None]:
    """Connect machines with a switch, which is in the first machine.

    At the end of the block, all machines are removed.
    """
    try:
        first.ip("link", "add", "cable", "type", "bridge")
        for number, other in enumerate(others):
            first.ip("link", "add", f"port{number}", "type", "veth",
                     "peer", "name", "cable", "netns", str(other.thread_id))  # fmt: skip
            first.ip("link", "set", f"port{number}", "master", "cable", "up")
        for each in (first, *others):
            each.up()
        yield
    finally:
        for each in (first, *others):
            each.end()


def machine(*addresses: str) -> Machine:
    """Make a machine. Without the permission for it, the test is skipped, or fails in CI."""
    need("ip")
    try:
        return Machine(*addresses)
    except OSError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"cannot make a network namespace: {error}")
        pytest.skip(f"cannot make a network namespace: {error}. Only root may do this.")
