"""Gives out each port once, so that no test connects to the server of another test.

If a server binds to port 0, the kernel soon chooses the same port again. A node of one test may
still call its component after the component has ended. The node could then connect to a server of
another test.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

LOWEST = 10_000
_KERNEL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def _own_ports() -> Iterator[int]:
    """Yields the ports of this test process, forever.

    The processes of a test session share the ports from LOWEST to the kernel's ephemeral ports.
    """
    highest = int(_KERNEL_RANGE.read_text().split()[0])
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = (highest - LOWEST) // workers
    first = LOWEST + worker * share
    offset = random.SystemRandom().randrange(share)  # tests of another checkout may be running
    return itertools.cycle([first + (offset + n) % share for n in range(share)])


_PORTS = _own_ports()


def port_of(listening: asyncio.Server | socket.socket) -> int:
    """The port on which a server with one socket, or a socket, listens."""
    if not isinstance(listening, socket.socket):
        (listening,) = listening.sockets
    _host, port, *_ = listening.getsockname()
    return port


def free_port() -> int:
    """A port on which nothing listens, and which was not returned before in this session."""
    for port in _PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
