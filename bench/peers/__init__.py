"""The interface of peers: other programs that could do the work of the Runtime Manager.

A peer subscribes at QoS 1. For each trigger, it asks the balancer (GET /LB/id_node) and makes the
three calls of flow 1 (POST /endpoint1). The flow is built as a user of the peer would build it. All
sockets are on loopback.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class Peer(Protocol):
    """A program to compare with."""

    @property
    def name(self) -> str:
        """The peer's name and installed version, for tables."""
        ...

    @property
    def durable_data(self) -> str:
        """Names the data that is kept after a power loss."""
        ...

    @property
    def max_triggers(self) -> int:
        """How many triggers the peer can handle if they are sent at once."""
        ...

    @property
    def is_slow(self) -> bool:
        """Whether the peer is so slow that it gets fewer triggers in a round than other peers."""
        ...

    def missing_reason(self) -> str | None:
        """Why the peer cannot run here, and what to install; None if the peer can run."""
        ...

    def install(self) -> None:
        """Install the peer's packages, verified by hash, if they are not installed yet."""
        ...

    def start(
        self, folder: Path, nginx_port: int, broker_port: int, topic: str
    ) -> AbstractContextManager[list[int]]:
        """Start the peer, with its files in ``folder``, and wait until it has subscribed.

        The context manager returns the ids of the peer's processes, whose CPU time and memory are
        measured. It stops the peer at the end of the block.
        """
        ...
