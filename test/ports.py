"""Ports for tests. Each is given out once, so that no test reaches the server of another.

The kernel soon chooses a port (port 0) again: a node of one test that still calls its component,
which has ended, could then reach a server of another test.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

LOWEST = 10_000
_KERNEL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def _own_ports() -> Iterator[int]:
    """This test process's share of the ports below the range from which the kernel chooses."""
    highest = int(_KERNEL_RANGE.read_text().split()[0])
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = (highest - LOWEST) // workers
    first = LOWEST + worker * share
    offset = random.SystemRandom().randrange(share)  # tests of another checkout may be running
    return itertools.cycle([first + (offset + n) % share for n in range(share)])


_PORTS = _own_ports()


def free_port() -> int:
    """A port on which nothing listens; it is given out only once in this session."""
    for port in _PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
