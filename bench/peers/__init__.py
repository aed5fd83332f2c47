"""Peers: other programs that could do this work, behind one interface.

A peer takes triggers at QoS 1, asks the balancer (GET /LB/id_node) and makes the three calls of
flow 1 (POST /endpoint1), built as a user of that program would build it. It uses loopback only.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class Peer(Protocol):
    """A program to compare with."""

    @property
    def name(self) -> str:
        """Its name and installed version, for tables."""
        ...

    @property
    def durable(self) -> str:
        """What survives a power loss, in a few words."""
        ...

    @property
    def max_triggers(self) -> int:
        """How many triggers at once it can handle."""
        ...

    @property
    def slow(self) -> bool:
        """Whether the peer gets fewer triggers than others, as it would take too long."""
        ...

    def missing(self) -> str | None:
        """Why it cannot run here, with what to install; None: it can."""
        ...

    def install(self) -> None:
        """Install its packages, verified by hash, unless they are installed."""
        ...

    def start(
        self, folder: Path, nginx_port: int, broker_port: int, topic: str
    ) -> AbstractContextManager[list[int]]:
        """Run the peer with its files in ``folder`` until the context is closed.

        The context begins when the peer has subscribed. It yields the ids of the processes whose
        CPU time and memory count.
        """
        ...
