"""What else could do this work, each behind the same four questions.

A peer takes triggers at QoS 1, asks the balancer (GET /LB/id_node) and makes the three calls of
flow 1 (POST /endpoint1), as a user of it would build that. Everything it opens is on loopback.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol


class Peer(Protocol):
    @property
    def name(self) -> str:
        """For tables, with the versions that are installed."""
        ...

    @property
    def durable(self) -> str:
        """What survives the machine's end, in a word or two."""
        ...

    @property
    def most(self) -> int:
        """So many triggers at once it bears."""
        ...

    @property
    def slow(self) -> bool:
        """Whether somebody would wait too long for it with as many triggers as the others."""
        ...

    def missing(self) -> str | None:
        """Why it cannot run here, with the cure; None where it can."""
        ...

    def install(self) -> None:
        """Fetches what it needs, by package name and verified by hash; at once if it is there."""
        ...

    def start(
        self, folder: Path, nginx_port: int, broker_port: int, topic: str
    ) -> AbstractContextManager[list[int]]:
        """Runs it with its files in the folder, for as long as the context is open.

        Opens when it has subscribed and can work; yields the processes whose CPU and memory count.
        """
        ...
