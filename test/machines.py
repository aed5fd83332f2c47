"""Machines for tests: two network namespaces, joined by a virtual cable.

A thread of this process runs in each namespace: its sockets and the processes it starts are there.
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
    """A network namespace with some addresses. Calls run in its thread, one after another."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self._thread = ThreadPoolExecutor(1)
        self.thread_id = self.call(self._enter_namespace)

    @staticmethod
    def _enter_namespace() -> int:
        """Move this thread to a new namespace; returns the id of the thread."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return threading.get_native_id()

    def call(self, made: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """Call a function on this machine; returns its result."""
        return self._thread.submit(made, *args, **named).result(60)

    def ip(self, *words: str) -> None:
        """Run `ip` on this machine."""
        done = self.call(subprocess.run, ["ip", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def up(self) -> None:
        """Give the end of the cable its addresses."""
        self.ip("link", "set", "lo", "up")
        self.ip("link", "set", "cable", "up")
        for address in self.addresses:
            # Without duplicate address detection: no other machine can have it.
            more = ("nodad",) if ":" in address else ()
            self.ip("address", "add", address, "dev", "cable", *more)

    def end(self) -> None:
        """End its thread. The kernel removes the namespace with its last process."""
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
    """A machine. Without the permission to make one, the test is skipped, or fails in CI."""
    need("ip")
    try:
        return Machine(*addresses)
    except OSError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no network namespace: {error}")
        pytest.skip(f"no network namespace: {error}; only root may make one")
