"""Ports for tests: each is given out once, so that nobody is called by mistake.

A port that the kernel chose (port 0) is soon chosen again: a node of one test that goes on asking
for a component that has ended would then ask the server of another test.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

LOWEST = 10_000
_CHOSEN_BY_THE_KERNEL = Path("/proc/sys/net/ipv4/ip_local_port_range")


def _own_ports() -> Iterator[int]:
    """Below what the kernel chooses from, the share of this process of all that run tests."""
    highest = int(_CHOSEN_BY_THE_KERNEL.read_text().split()[0])
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = (highest - LOWEST) // workers
    first = LOWEST + worker * share
    offset = random.SystemRandom().randrange(share)  # tests of another checkout may run, too
    return itertools.cycle([first + (offset + n) % share for n in range(share)])


_PORTS = _own_ports()


def free_port() -> int:
    """A port that nothing listens on, and that this session gives to nobody else."""
    for port in _PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
